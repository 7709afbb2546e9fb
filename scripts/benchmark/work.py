"""Creates the benchmark's folder: models, data, and folders for runs, caches and logs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffdpo.engine.files import write_atomically
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


def claimed(name: str, settings: Mapping[str, Any], flag: str = "--work_dir") -> Path:
    """A folder that keeps what was measured under these settings, of an earlier run or new.

    Raises UserError where it holds other files, or what was measured under other settings.
    """
    folder = Path(name).expanduser().resolve()
    file = folder / "settings.json"
    if file.is_file():
        before = json.loads(file.read_text())
        if before != settings:
            names = [key for key in settings if before.get(key) != settings[key]]
            raise UserError(
                f"{flag} {name}: holds what was measured with another {', '.join(names)}; name"
                " another folder, or the same settings"
            )
        return folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{flag} {name}: holds other files; name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(dict(settings), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{flag} {name}: cannot be written ({error.strerror})") from error
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
