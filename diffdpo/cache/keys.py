"""What a stored number depends on, as a name: the same facts give the same folder, others another.

A settings field that changes stored numbers is marked where it is defined, ``flag(…, changes=…)``;
a network is told by its configuration, weights, buffers, precision and kind of device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.config import BaseSettings

# Of how draws and rows are made: raise it where old tables would no longer be what a run computes.
VERSION = "2"
# What a marked field changes, each with all that is made from it.
ENCODINGS = ("encodings",)  # of pictures: latents
SCORES = ("encodings", "draws", "scores")  # of a reference
# Parts of a configuration that say how a network was written down, not what it computes; precision
# is read off the weights.
NOT_NUMBERS = {"transformers_version", "dtype", "torch_dtype", "attn_implementation"}


@dataclass(frozen=True)
class Key:
    """What is stored, and by name everything that its numbers depend on."""

    kind: str
    facts: dict[str, str]

    @classmethod
    def of(
        cls, kind: str, settings: BaseSettings, changes: tuple[str, ...], facts: dict[str, str]
    ) -> Key:
        """All settings marked with one of ``changes``, and ``facts`` about data and networks."""
        return cls(kind, facts | marked(settings, changes))

    @property
    def folder(self) -> str:
        """The name of the table's folder."""
        return f"{self.kind}-{digest(VERSION, json.dumps(self.facts, sort_keys=True))}"


def marked(settings: BaseSettings, changes: tuple[str, ...]) -> dict[str, str]:
    """The settings that carry one of the marks, by their flags."""
    return {
        f"--{field.name}": str(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.metadata.get("changes") in changes
    }


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


def arithmetic(device: torch.device) -> str:
    """The kind of device, and on a GPU whether products are rounded to TF32.

    The index of a device is left out: a table serves any number of processes.
    """
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return f"{device.type}{' tf32' if tf32 else ''}"


def network_digest(network: nn.Module) -> str:
    """Changes when what the reference computes changes: configuration, weights, buffers, their
    precision, the kind of device.

    Under adapters in training these are the frozen weights, by the names they have without
    adapters: LoRA and full fine-tune share what they can share.
    """
    total = hashlib.blake2b(digest_size=8)
    total.update(json.dumps(list(configurations(network)), sort_keys=True, default=str).encode())
    device = torch.device("cpu")
    for name, tensor in fixed_tensors(network):
        device = tensor.device
        shape = f"{name.replace('.base_layer', '')} {tensor.dtype} {tuple(tensor.shape)}"
        total.update(shape.encode())
        total.update(raw(tensor).numpy().data)
    total.update(arithmetic(device).encode())
    return total.hexdigest()


def fixed_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the reference: all that adapters in training leave alone."""
    adapted = any(".base_layer." in name for name, _ in network.named_parameters())
    for name, weight in network.named_parameters():
        if not (adapted and weight.requires_grad):
            yield name, weight
    yield from network.named_buffers()


def configurations(network: nn.Module) -> Iterator[dict[str, Any]]:
    """What the parts of a network say of themselves, beside their weights; of adapters those that
    are frozen."""
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    for module in network.modules():
        if not hasattr(module, "save_pretrained"):
            continue
        config: Any = getattr(module, "config", {})
        yield numbers_of(config.to_dict() if hasattr(config, "to_dict") else dict(config))
        for adapter, options in (getattr(module, "peft_config", None) or {}).items():
            if any(f".{adapter}." in name for name in frozen):
                yield numbers_of(options.to_dict(), {"inference_mode", "lora_dropout"})


def numbers_of(config: dict[str, Any], beside: set[str] = frozenset()) -> dict[str, Any]:  # type: ignore[assignment]
    """The entries of a configuration that can change a number. Names that begin with _ are the
    libraries' own notes."""
    return {
        name: sorted(value, key=str) if isinstance(value, set) else value
        for name, value in config.items()
        if not name.startswith("_") and name not in NOT_NUMBERS and name not in beside
    }


def raw(tensor: Tensor) -> Tensor:
    """A tensor's bytes, on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
