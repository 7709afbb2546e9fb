"""Names of tables, made from all that their numbers depend on: other facts, another folder.

A settings field that changes stored numbers is marked where it is defined, ``flag(…, changes=…)``.
A network is identified by its configuration, weights, buffers, precision and kind of device.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffdpo.config import BaseSettings
from diffdpo.engine.digests import digest as digest
from diffdpo.engine.finite import plain_tensors

# The version of how draws are made and rows are laid out. Raise it with a change after which a run
# would compute, or read, other numbers than old tables hold.
VERSION = "3"
# The marks of the fields that a kind of table depends on: scores are made from draws, and draws
# from encodings.
ENCODINGS = ("encodings",)
SCORES = ("encodings", "draws", "scores")
CANDIDATES = ("candidates",)  # of pairs that are sampled
# Entries of a configuration that say how a network was saved, not what it computes. The precision
# is read off the weights themselves.
NOT_NUMBERS = {"transformers_version", "dtype", "torch_dtype", "attn_implementation"}


@dataclass(frozen=True)
class Key:
    """The kind of a table, and by name everything that its numbers depend on."""

    kind: str
    facts: dict[str, str]

    @classmethod
    def of(
        cls, kind: str, settings: BaseSettings, changes: tuple[str, ...], facts: dict[str, str]
    ) -> Key:
        """A key of the settings marked with one of ``changes``, and of other ``facts``."""
        return cls(kind, facts | marked(settings, changes))

    @property
    def folder(self) -> str:
        """The name of the table's folder."""
        return f"{self.kind}-{digest(VERSION, json.dumps(self.facts, sort_keys=True))}"


def marked(settings: BaseSettings, changes: tuple[str, ...]) -> dict[str, str]:
    """The settings marked with one of ``changes``, by flag."""
    return {
        f"--{field.name}": str(getattr(settings, field.name))
        for field in dataclasses.fields(settings)
        if field.metadata.get("changes") in changes
    }


def short_hash() -> Any:
    """BLAKE2 in 8 bytes: names of folders stay readable."""
    return hashlib.blake2b(digest_size=8)


def files_digest(folder: Path) -> str:
    """A digest of the files in a model's folder; nothing is loaded into a network."""
    total = hashlib.blake2b(digest_size=8)
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                content = hashlib.file_digest(file, short_hash)  # type: ignore[arg-type]
            total.update(path.name.encode() + content.digest())
    return total.hexdigest()


def arithmetic(device: torch.device) -> str:
    """The kind of device, and on a GPU whether matrix products are rounded to TF32.

    The index of a device is left out: a table serves any number of processes.
    """
    tf32 = device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32
    return f"{device.type}{' tf32' if tf32 else ''}"


def network_digest(network: nn.Module) -> str:
    """A digest of all that decides what the reference computes.

    That is configuration, weights, buffers, their precision, and the kind of device. Under adapters
    in training it is the frozen weights, by the names they have without adapters, so that a LoRA
    and a full fine-tune of one model share a table.
    """
    total = hashlib.blake2b(digest_size=8)
    total.update(json.dumps(list(configurations(network)), sort_keys=True, default=str).encode())
    device = torch.device("cpu")
    for name, tensor in fixed_tensors(network):
        # Some of them may wait on the host for their turn.
        device = device if tensor.device.type == "cpu" else tensor.device
        # peft inserts this word into the name of a weight under an adapter.
        shape = f"{name.replace('.base_layer', '')} {tensor.dtype} {tuple(tensor.shape)}"
        total.update(shape.encode())
        total.update(raw(tensor).numpy().data)
    total.update(arithmetic(device).encode())
    return total.hexdigest()


def fixed_tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The reference's tensors: all, or under adapters those that training leaves unchanged."""
    adapted = any(".base_layer." in name for name, _ in network.named_parameters())
    for name, weight in network.named_parameters():
        if not (adapted and weight.requires_grad):
            yield from plain_tensors(name, weight)
    yield from network.named_buffers()


def configurations(network: nn.Module) -> Iterator[dict[str, Any]]:
    """The configurations of a network's models and of its frozen adapters."""
    # Weights alone do not decide a result: the number of heads or the base of RoPE is not in them.
    frozen = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    for module in network.modules():
        if not hasattr(module, "save_pretrained"):
            continue
        config: Any = getattr(module, "config", {})
        yield entries_that_matter(config.to_dict() if hasattr(config, "to_dict") else dict(config))
        for adapter, options in (getattr(module, "peft_config", None) or {}).items():
            if any(f".{adapter}." in name for name in frozen):
                # How it was loaded, and a rate that is off: ``reference.without_dropout``.
                yield entries_that_matter(options.to_dict(), {"inference_mode", "lora_dropout"})


def entries_that_matter(config: dict[str, Any], ignored: Set[str] = frozenset()) -> dict[str, Any]:
    """The entries of a configuration that can change a number, other than the ``ignored`` ones."""
    # Names that begin with _ are the libraries' own notes. Sets have another order in every
    # process.
    return {
        name: sorted(value, key=str) if isinstance(value, set) else value
        for name, value in config.items()
        if not name.startswith("_") and name not in NOT_NUMBERS and name not in ignored
    }


def raw(tensor: Tensor) -> Tensor:
    """A tensor's bytes, on the CPU."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def read_facts(path: Path) -> dict[str, Any] | None:
    """The facts in a key.json; None where there is none that can be read."""
    try:
        facts = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) else None
