"""Loads the networks of a pipeline: every weight has a place, every place a weight, all finite.

Weights are read from safetensors alone, and every failure of a library is told in one line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open

from diffdpo.data.paths import LFS, is_pointer
from diffdpo.engine.finite import names_not_finite
from diffdpo.errors import UserError, short

Source = tuple[str, dict[str, Any]]  # a folder or hub id, and the options to load from it

PICKLED = {".bin", ".ckpt", ".pt", ".pth"}
# Buffers of constants that older versions of transformers saved.
CONSTANTS = ("embeddings.position_ids",)
CONVERT = (
    "safetensors alone are read. Convert it once, where you trust its source: DiffusionPipeline"
    '.from_pretrained("{folder}").save_pretrained(NEW_FOLDER)'
)


@contextmanager
def told_in_one_line(what: str, fails: str = "cannot be loaded") -> Iterator[None]:
    """Turn any exception of a library into a UserError that says what could not be done."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the loaders raise a different type for every broken file
        kind = type(error).__name__
        raise UserError(f"{what}: {fails} ({kind}: {short(error, 200)})") from error


def load_network(
    kind: Any,
    what: str,
    source: Source,
    variant: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A network of class ``kind`` in ``dtype``, exactly as its files have it; ``what`` names it in
    errors.

    Raises UserError for weights that are missing, pickled, left over, of another shape or not
    finite.
    """
    name, options = source
    folder = Path(name) / options.get("subfolder", "")
    if folder.is_dir():
        variant = variant_in(folder, stem_of(kind), variant, what)
        check_headers(folder, what)
    with told_in_one_line(what):
        network, info = kind.from_pretrained(
            name,
            **options,
            **{"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype},
            variant=variant,
            use_safetensors=True,
            output_loading_info=True,
        )
    check_places(info, what)
    check_finite(network.state_dict(), what)
    return network


def stem_of(kind: Any) -> str:
    """The name of a network's file without endings: by convention of its library."""
    return "diffusion_pytorch_model" if issubclass(kind, ModelMixin) else "model"


def variants_in(folder: Path, stem: str) -> set[str]:
    """The variants of weights that a folder holds; that of no name is ''."""
    part = r"(?:-\d+-of-\d+)?"
    form = re.compile(rf"{re.escape(stem)}{part}(?:\.(\w+))?{part}\.safetensors")
    return {match[1] or "" for path in folder.iterdir() if (match := form.fullmatch(path.name))}


def variant_in(folder: Path, stem: str, wanted: str | None, what: str) -> str | None:
    """The variant to load: the wanted one or, where the folder lacks it, the plain one.

    Raises UserError where the folder holds neither.
    """
    held = variants_in(folder, stem)
    if wanted in held:
        return wanted
    if "" in held:  # of many pipelines only some networks have variants
        return None
    if held:
        one = min(held)
        raise UserError(f"{what}: holds variant {short(one)} alone; add --variant {short(one)}")
    pickled = [path.name for path in folder.iterdir() if path.suffix in PICKLED]
    if pickled:
        raise UserError(
            f"{what}: holds pickled weights ({short(pickled[0])}), and "
            + CONVERT.format(folder=short(folder.parent))
        )
    raise UserError(f"{what}: holds no weights ({stem}.safetensors)")


def check_headers(folder: Path, what: str) -> None:
    """Raises UserError where a file of weights is not what its name says."""
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            if is_pointer(path):
                raise UserError(f"{what}: {short(path.name)} {LFS}") from error
            raise UserError(
                f"{what}: cannot be loaded ({short(path.name)} is cut short, damaged, or no"
                f" safetensors file: {short(error)})"
            ) from error


def check_places(info: Mapping[str, Any], what: str) -> None:
    """Raises UserError where weights and places do not correspond one to one."""
    mismatched = [
        str(entry[0] if isinstance(entry, (tuple, list)) else entry)
        for entry in info.get("mismatched_keys", ())
    ]
    for keys, line in (
        (info["missing_keys"], "its files lack weights"),
        (info["unexpected_keys"], "its files hold weights that have no place in it"),
        (mismatched, "weights of another shape than its configuration says"),
    ):
        names = sorted(key for key in keys if not key.endswith(CONSTANTS))
        if names:
            raise UserError(f"{what}: {line} ({some(names)})")


def some(names: Sequence[str]) -> str:
    """How many names there are, and the first ones."""
    more = ", …" if len(names) > 3 else ""
    return f"{len(names)}: {', '.join(short(name) for name in names[:3])}{more}"


def check_finite(weights: Mapping[str, torch.Tensor], what: str) -> None:
    """Raises UserError where a weight is NaN or infinite."""
    if wrong := names_not_finite(weights.items()):
        raise UserError(f"{what}: NaN or infinite weights ({some(wrong)})")
