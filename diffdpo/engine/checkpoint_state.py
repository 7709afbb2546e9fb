"""state.json of a checkpoint: sealed with digests of itself and of the files beside it, checked on
reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffdpo.engine.digests import file_digest, text_digest
from diffdpo.errors import UserError

FILE = "state.json"
FORMAT = "diffdpo checkpoint 3"
BY_NUMBER = "diffdpo checkpoint 2"  # the optimizer's tensors by the number of a weight
WITHOUT_DIGESTS = "diffdpo checkpoint 1"
TRAINABLE, OPTIMIZER, MEANS = PARTS = ("trainable", "optimizer", "averages")
TENSOR_FILES = (f"{TRAINABLE}.safetensors", f"{OPTIMIZER}.safetensors")
AVERAGES = f"{MEANS}.safetensors"  # only where a run has moving averages of its weights
FIELDS = {"step": int, "settings": dict, "effective_batch": int, "data": str, "optimizer": dict}


def seal(folder: Path, state: dict[str, Any], files: dict[str, str] | None = None) -> None:
    """Write state.json beside the tensor files of a checkpoint, with the digests of all, which are
    taken here unless ``files`` has them."""
    if files is None:
        names = [name for name in (*TENSOR_FILES, AVERAGES) if (folder / name).exists()]
        files = {name: file_digest(folder / name) for name in names}
    state = {"format": FORMAT, **state, "files": files}
    # Of what a reader will get: JSON turns tuples into lists and numbers as keys into text.
    digest = digest_of(json.loads(json.dumps(state)))
    (folder / FILE).write_text(json.dumps({**state, "digest": digest}))


def digest_of(state: dict[str, Any]) -> str:
    """The digest of a state, whatever the order of its entries."""
    return text_digest(json.dumps(state, sort_keys=True))


def is_ours(path: Path) -> bool:
    """Whether a folder has the form of this package's checkpoints, whole or not."""
    try:
        return json.loads((path / FILE).read_text())["format"] in (
            FORMAT,
            BY_NUMBER,
            WITHOUT_DIGESTS,
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def read_state(path: Path) -> dict[str, Any]:
    """The content of ``state.json``.

    Raises UserError where the folder is not a checkpoint, or the file is damaged.
    """
    if not is_ours(path):
        raise UserError(
            f"{path}: not a checkpoint of diffdpo (no readable state.json of its format)"
        )
    state: dict[str, Any] = json.loads((path / FILE).read_text())
    digest = state.pop("digest", None)
    # A state that has a digest is held to it, whatever it says of its format.
    if (state["format"] != WITHOUT_DIGESTS or digest is not None) and digest != digest_of(state):
        raise UserError(f"{path / FILE}: damaged (its content does not fit its digest)")
    if wrong := odd_fields(state):
        raise UserError(f"{path / FILE}: damaged (no usable {', '.join(wrong)})")
    if path.name != (name := f"checkpoint-{state['step']}") and path.name.startswith("checkpoint-"):
        raise UserError(f"{path}: holds {name}; give the folder that name, or take another")
    return state


def odd_fields(state: dict[str, Any]) -> list[str]:
    """The fields that are missing, or of another type than a run writes."""
    wrong = [
        name
        for name, kind in FIELDS.items()
        # True is an int to Python.
        if not isinstance(state.get(name), kind) or isinstance(state.get(name), bool)
    ]
    counts = ("step", "effective_batch")
    wrong += [name for name in counts if name not in wrong and state[name] < 0]
    if "optimizer" not in wrong:
        parts = {"values": dict, "param_groups": list}
        saved = state["optimizer"]
        wrong += [
            f"optimizer.{k}" for k, kind in parts.items() if not isinstance(saved.get(k), kind)
        ]
    wrong += [
        name for name in ("scaler", "running") if not isinstance(state.get(name), dict | None)
    ]
    return wrong


def is_in_shares(folder: Path) -> bool:
    """Whether each process of the run has written a part of a checkpoint's tensors."""
    return (folder / TRAINABLE).is_dir()


def holds_weights(folder: Path) -> bool:
    """Whether a folder holds the weights of a checkpoint, in one form or the other."""
    return is_in_shares(folder) or (folder / TENSOR_FILES[0]).exists()


def expected_files(folder: Path, written: dict[str, Any]) -> list[str]:
    """The names of the tensor files that a checkpoint must have; ``written`` has those that it was
    sealed with."""
    if is_in_shares(folder):
        there = [str(file.relative_to(folder)) for file in folder.glob("*/*.safetensors")]
        return sorted({*written, *there})
    return [*TENSOR_FILES, *([AVERAGES] if AVERAGES in written else [])]


def check_outline(path: Path, state: dict[str, Any]) -> None:
    """Raises UserError where a tensor file is missing, whatever its content."""
    for name in expected_files(path, state.get("files", {})):
        if not (path / name).is_file():
            raise UserError(f"{path / name}: damaged or missing (no such file)")


def check_files(path: Path, state: dict[str, Any], number: int = 0, of: int = 1) -> None:
    """Raises UserError where a tensor file is missing, or is not the one that was written.

    Where several processes share the work, number ``number`` ``of`` them looks at its part.
    """
    written = state.get("files", {})
    for name in expected_files(path, written)[number::of]:
        file = path / name
        try:
            digest = file_digest(file)
        except OSError as error:
            raise UserError(f"{file}: damaged or missing ({error.strerror})") from error
        if "files" in state and digest != written.get(name):
            raise UserError(f"{file}: damaged (its bytes do not fit their digest)")
