"""What a stored number depends on, as a name: the same facts give the same folder, other facts
another."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

# Of how draws and rows are made: raise it where old tables would no longer be what a run computes.
VERSION = "1"


@dataclass(frozen=True)
class Key:
    """What is stored, and by name everything that its numbers depend on."""

    kind: str
    facts: dict[str, str]

    @property
    def folder(self) -> str:
        """The name of the table's folder."""
        return f"{self.kind}-{digest(VERSION, json.dumps(self.facts, sort_keys=True))}"


def digest(*parts: str | bytes) -> str:
    """A short name of the parts that changes when any of them does."""
    total = hashlib.blake2b(digest_size=8)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()


def files_digest(folder: Path) -> str:
    """Changes when a file of a model's folder changes; nothing is loaded."""
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8))  # type: ignore[arg-type]
            total.update(path.name.encode() + content.digest())
    return total.hexdigest()


def weights_digest(network: nn.Module) -> str:
    """Changes when the reference's weights change, or their type. Under adapters in training these
    are the frozen weights, by the names they have without adapters: LoRA and full fine-tune share
    what they can share."""
    weights = list(network.named_parameters())
    fixed = [(name, weight) for name, weight in weights if not weight.requires_grad] or weights
    total = hashlib.blake2b(digest_size=8)
    for name, weight in fixed:
        total.update(f"{name.replace('.base_layer', '')} {weight.dtype}".encode())
        total.update(raw(weight).numpy().data)
    return total.hexdigest()


def raw(weight: Tensor) -> Tensor:
    """A weight's bytes, on the CPU."""
    return weight.detach().cpu().contiguous().view(torch.uint8)
