"""What tells the weights of a reward from others: digests of the files in their folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from diffdpo.engine.digests import file_digest, text_digest

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
SOURCE = "source.json"  # in a converted folder: the official file
WORDS = ("tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model")
TOKENIZER = (*WORDS, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def weight_files(folder: Path) -> list[Path]:
    """The files of a network's weights: one, or the parts that its index names."""
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text())
        return [folder / name for name in sorted(set(index["weight_map"].values()))]
    return [folder / WEIGHTS]


def digest_of(files: Iterable[Path]) -> str:
    """16 letters for the content of files: of one the beginning of its SHA-256 digest."""
    digests = [file_digest(file) for file in files]
    return (digests[0] if len(digests) == 1 else text_digest(" ".join(digests)))[:16]


def tokenizer_digest(folder: Path) -> str:
    """8 letters for the files of a tokenizer."""
    return digest_of(folder / name for name in TOKENIZER if (folder / name).is_file())[:8]


def network_name(folder: Path, kind: str) -> str:
    """A network's class with 8 letters for its settings, which decide what its weights mean."""
    return f"{kind} {digest_of([folder / 'config.json'])[:8]}"


def origin(folder: Path) -> dict[str, str]:
    """The official file that a folder was converted from, where it was."""
    if not (folder / SOURCE).is_file():
        return {}
    source = json.loads((folder / SOURCE).read_text())
    return {"from": f"{source['file']} {source['sha256'][:16]}"}
