"""Finds, checks and loads the weights of a reward; a folder that does not fit is one clear line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from diffdpo.data.paths import is_path
from diffdpo.engine.loaded import check_finite, check_keys
from diffdpo.errors import UserError, short
from diffdpo.metrics.identity import INDEX, WEIGHTS, WORDS

# What is fetched: no pickles and no code, and of a tokenizer no weights beside it.
READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
# Said, not left out: the libraries would ask on the terminal whether to run the code in a folder.
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
PICKLED = (".bin", ".ckpt", ".pt", ".pth")


def folder_of(
    name: str, path: str | None, hub: str | None, holds: str, files: Sequence[str] = READ
) -> Path:
    """The folder of a reward's weights: ``path``, a folder or hub id, or else the id ``hub``.

    ``holds`` says what must be there, and ``files`` are fetched from the hub.

    Raises UserError where there is none.
    """
    source = path or hub
    if source is None:
        raise UserError(
            f"--reward {name}: no weights of it on the hub can be read as they are; give"
            f" --reward_model {name}=FOLDER, which holds {holds} (docs/rewards.md)"
        )
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if is_path(source):
        raise UserError(f"--reward_model {name}={source}: no such folder")
    try:
        return Path(snapshot_download(source, allow_patterns=list(files)))
    except Exception as error:  # of the network, of the hub, of the disk
        raise UserError(
            f"--reward {name}: {source} is not on this machine and cannot be fetched"
            f" ({short(error)}); give --reward_model {name}=FOLDER, which holds {holds}"
        ) from error


def place_of(name: str, path: str | None) -> str:
    """How an error line names the weights of a reward."""
    return f"--reward_model {name}={path}" if path else f"--reward {name}"


def load_network(
    kind: Any, folder: Path, place: str, spare: tuple[str, ...] = (), **options: Any
) -> Any:
    """A network of the class ``kind`` in float32, ready to be asked.

    Weights whose names begin with ``spare`` are of parts that are not asked.

    Raises UserError where the folder lacks a file, is of another network, or holds weights that
    are pickled, missing, left over, of another shape or not finite.
    """
    for files in (("config.json",), (WEIGHTS, INDEX)):
        check_file(folder, files, place)
    try:
        network, info = kind.from_pretrained(
            folder,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
            **options,
        )
    except Exception as error:  # its files may hold anything
        reason = short(error, 200) or type(error).__name__
        raise UserError(f"{place}: cannot be loaded ({reason})") from error
    check_kind(kind, folder, place)
    left = [key for key in info["unexpected_keys"] if not key.startswith(spare)]
    check_keys(place, info["missing_keys"], left)
    check_finite(network, place)
    return network.eval().requires_grad_(False)


def check_kind(kind: Any, folder: Path, place: str) -> None:
    """Raises UserError where a folder is of another kind of network than the class ``kind``."""
    wanted = getattr(kind, "config_class", None)  # None: of a class that takes many
    found = json.loads((folder / "config.json").read_text()).get("model_type")
    if wanted is not None and found.split("_")[0] != wanted.model_type.split("_")[0]:
        raise UserError(f"{place}: of a {short(found)}, and a {wanted.model_type} is needed")


def side_of(config: Any, place: str) -> int:
    """The side in pixels of the square pictures that a network reads. Raises UserError where its
    settings name none."""
    size = config.image_size
    sides = set(size) if isinstance(size, (list, tuple)) else {size}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int):
        raise UserError(f"{place}: image_size {short(size)} in config.json is no square's side")
    return side


def check_file(folder: Path, names: tuple[str, ...], place: str) -> None:
    """Raises UserError where a folder has none of the files ``names``."""
    if any((folder / name).is_file() for name in names):
        return
    files = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    pickled = [name for name in files if name.endswith(PICKLED)]
    if pickled and names[0].endswith(".safetensors"):
        raise UserError(
            f"{place}: holds {short(pickled[0])}, which is pickled and not read, and no"
            f" {names[0]}; convert it once, see docs/rewards.md"
        )
    raise UserError(f"{place}: {names[0]} is missing there")


def load_tokenizer(folder: Path, place: str, rows: int) -> Any:
    """The tokenizer in a folder, for a network with ``rows`` words.

    Raises UserError where there is none, or one with more words than that.
    """
    check_file(folder, WORDS, place)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # its files may hold anything
        reason = short(error, 200) or type(error).__name__
        raise UserError(f"{place}: its tokenizer cannot be read ({reason})") from error
    if len(tokenizer) > rows:
        raise UserError(
            f"{place}: its tokenizer has {len(tokenizer):,} words, and the network {rows:,}: they"
            " do not belong together"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_head(folder: Path, place: str) -> dict[str, Tensor]:
    """The tensors of ``head.safetensors``, in float64. Raises UserError where there are none."""
    check_file(folder, ("head.safetensors",), place)
    try:
        head = load_file(folder / "head.safetensors")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{place}: head.safetensors cannot be read ({short(error)})") from error
    if bad := [name for name, tensor in head.items() if not tensor.isfinite().all()]:
        raise UserError(f"{place}: head.safetensors: {short(bad[0])} is not finite")
    return {name: tensor.double() for name, tensor in head.items()}


def check_shapes(
    head: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], place: str
) -> None:
    """Raises UserError where a head has other tensors, or of other shapes, than these."""
    found = {name: tuple(tensor.shape) for name, tensor in head.items()}
    if found != dict(shapes):
        raise UserError(
            f"{place}: head.safetensors holds {listed(found)}; needed: {listed(shapes)}"
        )


def listed(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The names and shapes of tensors in a line."""
    words = (f"{name} {'x'.join(map(str, shape))}" for name, shape in sorted(shapes.items()))
    return short(", ".join(words), 200) or "nothing"
