"""What a model's name stands for: the folder of a pipeline, and what lies there in its stead."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open

from diffdpo.data.paths import is_path
from diffdpo.errors import UserError, short
from diffdpo.image.backbones.weights import told_in_one_line
from diffdpo.image.lora_file import FUSE, LORA_FILE

LIBRARIES = ("diffusers", "transformers")  # whose classes an index may name


def read_index(name: str, hub: dict[str, Any]) -> dict[str, Any]:
    """The entries of model_index.json: the pipeline's class, and library and class of each part.

    Raises UserError where there is no pipeline, and says what is there instead.
    """
    path = Path(name)
    if path.is_file():
        raise UserError(f"model {name}: {single_file(path)}")
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise UserError(f"model {name}: {no_pipeline(path)}")
    if is_path(name) and not path.is_dir():
        raise UserError(f"model {name}: no such folder")
    try:
        index = DiffusionPipeline.load_config(
            name, **{k: v for k, v in hub.items() if k != "variant"}
        )
    except Exception as error:  # the hub's errors share no type with those of files
        raise UserError(
            f"model {name}: no pipeline with a model_index.json there or on the hub"
            f" ({short(error)})"
        ) from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise UserError(f"model {name}: its model_index.json names no pipeline class")
    return index


def single_file(path: Path) -> str:
    """What to do with a checkpoint in one file."""
    kind = "StableDiffusionPipeline"
    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
        if any("lora" in name for name in names):
            return f"a LoRA file; {FUSE}"
        if any(name.startswith("conditioner.") for name in names):
            kind = "StableDiffusionXLPipeline"
    except (OSError, SafetensorError):
        pass  # pickled, or no checkpoint at all: diffusers says which
    return (
        f"a single file, and a pipeline's folder is needed. Convert it once: {kind}"
        f'.from_single_file("{short(path)}").save_pretrained(FOLDER); without a network it needs'
        " config=, a folder of a pipeline of the same kind"
    )


def no_pipeline(folder: Path) -> str:
    """What lies in a folder without model_index.json, and what to do with it."""
    if (folder / LORA_FILE).is_file():
        return f"a LoRA; {FUSE}"
    files = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".ckpt")]
    if (folder / "config.json").is_file() or not files:
        return "no pipeline with a model_index.json there"
    return f"no model_index.json there, but {short(files[0].name)}: {single_file(files[0])}"


def local_folder(family: Any, name: str, left_out: list[str], hub: dict[str, Any]) -> Path:
    """The folder of the pipeline ``name``, downloaded where it is a hub id, without these parts."""
    if Path(name).is_dir():
        return Path(name)
    with told_in_one_line(f"model {name}"):
        # A component that is given needs no files.
        given = {**family.load_options, **dict.fromkeys(left_out)}
        return Path(family.pipeline_class.download(name, **hub, **given, use_safetensors=True))


def is_left_out(index: dict[str, Any], part: str) -> bool:
    """Whether an index says that a pipeline has no such part."""
    entry = index.get(part)
    return entry is None or (isinstance(entry, (list, tuple)) and set(entry) == {None})


def class_of(index: dict[str, Any], part: str) -> Any:
    """The class of a part of the pipeline, as the index names it.

    Raises UserError where the index lacks it or names a class of another library.
    """
    entry = index.get(part)
    if not isinstance(entry, (list, tuple)) or len(entry) != 2 or None in entry:
        raise UserError(f"model_index.json names no {part}, which is needed")
    library, name = entry
    known = getattr(import_module(library), str(name), None) if library in LIBRARIES else None
    if not isinstance(known, type):
        raise UserError(
            f"model_index.json: {part} {short(library)}.{short(name)} is not known to the installed"
            f" {' and '.join(LIBRARIES)}"
        )
    return known
