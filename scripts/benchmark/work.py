"""Creates the benchmark's folder: models, data, and folders for runs, caches and logs."""

from __future__ import annotations

import shutil
from pathlib import Path

from diffdpo.errors import UserError
from scripts.benchmark.image_work import make_image_work
from scripts.benchmark.size import Work
from scripts.benchmark.text_work import make_text_work

MARKER = ".diffdpo-benchmark"


def fresh_folder(name: str) -> Path:
    """An empty folder for one benchmark. Raises UserError where it holds other files."""
    folder = Path(name).expanduser().resolve()
    if (
        folder.exists()
        and (not folder.is_dir() or any(folder.iterdir()))
        and not (folder / MARKER).exists()
    ):
        raise UserError(
            f"--work_dir {name}: holds other files, and a benchmark empties its folder; name"
            " another"
        )
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / MARKER).touch()
    except OSError as error:
        raise UserError(f"--work_dir {name}: cannot be written ({error.strerror})") from error
    return folder


def make_work(work: Work, kinds: set[str]) -> None:
    """Models and data for the kinds of subjects: lora, full, text."""
    work.folder.mkdir()
    if kinds - {"text"}:
        make_image_work(work)
    if "text" in kinds:
        make_text_work(work)


def network_bytes(work: Work) -> int:
    """Bytes of the UNet in float32; 0 where there is none."""
    weights = work.pipeline / "unet" / "diffusion_pytorch_model.safetensors"
    return weights.stat().st_size if weights.exists() else 0
