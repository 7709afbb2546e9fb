"""Proves that every weight of a loaded network has come from its files, and is a number."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from diffdpo.engine.finite import names_not_finite
from diffdpo.errors import UserError, short

# Tables that older checkpoints hold beside their weights; models compute them anew.
HARMLESS = re.compile(
    r"(inv_freq|masked_bias|attn\.bias|attention\.bias|position_ids|rope\.freqs)$"
)


def check_keys(place: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raises UserError where weights have no place in the network, or places no weights."""
    lacking = sorted(key for key in missing if not HARMLESS.search(key))
    left = sorted(key for key in unexpected if not HARMLESS.search(key))
    lines = []
    if lacking:
        lines.append(f"{place}: lacks {len(lacking)} of the network's weights ({some(lacking)})")
    if left:
        lines.append(
            f"{place}: holds {len(left)} weights that the network has no place for ({some(left)})"
        )
    if lines:
        raise UserError(*lines)


def some(names: list[str]) -> str:
    """The first of many names."""
    return short(", ".join(names[:3]), 160) + (", …" if len(names) > 3 else "")


def check_finite(network: nn.Module, place: str) -> None:
    """Raises UserError where a weight is NaN or infinite."""
    if bad := names_not_finite(network.named_parameters()):
        raise UserError(f"{place}: {len(bad)} of its weights are not finite ({some(bad)})")
