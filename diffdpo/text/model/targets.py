"""The layers that get an adapter, by their names."""

from __future__ import annotations

import re
from collections.abc import Iterable

from peft.utils.constants import EMBEDDING_LAYER_NAMES
from transformers import PreTrainedModel

from diffdpo.errors import UserError, short
from diffdpo.text.flags.adapter_settings import ALL_LINEAR


def apart(words: Iterable[str]) -> list[str]:
    """Names of layers, of which several may stand in a word with commas between them, as TRL's own
    example has it; a pattern stays whole."""
    return [
        name
        for word in words
        for name in (word.split(",") if re.fullmatch(r"[\w.,]+", word) else [word])
        if name
    ]


def is_pattern(targets: list[str]) -> bool:
    """Whether layers are told by a single word of peft's own, as in TRL: "all-linear", or a pattern
    of whole names."""
    return targets == ALL_LINEAR or (len(targets) == 1 and not re.fullmatch(r"[\w.]+", targets[0]))


def touches_ends(names: list[str]) -> bool:
    """Whether the embedding or the output head is among the names of modules."""
    return any(name.rpartition(".")[2] in EMBEDDING_LAYER_NAMES for name in names)


def check_names(network: PreTrainedModel, flag: str, ends: Iterable[str]) -> None:
    """Raises UserError for the first of these ends that no module's name has: peft leaves those out
    without a word."""
    modules = [f".{name}" for name, _ in network.named_modules()]
    for end in ends:
        if not any(module.endswith(end) for module in modules):
            name = end.lstrip(".")
            hint = " (did you mean all-linear?)" if name == "all" else ""
            raise UserError(f"--{flag} {short(name)}: no module has this name{hint}")
