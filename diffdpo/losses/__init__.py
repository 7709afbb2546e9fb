"""ADD A LOSS HERE: one pure function in a file of this folder, and one row in the table below; the
tests find it by themselves.

A loss maps the rewards of ``B`` pairs (policy score − reference score, before beta, higher is
better) to ``B`` un-reduced losses in float32 at least. A reference-free loss reads the policy's
score itself: its reference score is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffdpo.losses.items import (
    apo_zero_unpaired_loss,
    bco_loss,
    kto_loss,
)
from diffdpo.losses.pairs import (
    aot_loss,
    aot_unpaired_loss,
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    bco_pair_mean_loss,
    capo_loss,
    discopop_loss,
    dpop_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    linear_loss,
    nca_pair_loss,
    robust_loss,
    sigmoid_loss,
    sigmoid_norm_loss,
    sppo_hard_loss,
)
from diffdpo.losses.reference_free import (
    alphapo_loss,
    cpo_hinge_loss,
    cpo_ipo_loss,
    cpo_loss,
    mapo_loss,
    orpo_loss,
    sft_loss,
    simpo_loss,
)
from diffdpo.losses.row import Loss, as_loss
from diffdpo.preference import at_least_float32

__all__ = ["LOSSES", "Loss", "as_loss", "preference_loss"]

LOSSES = {
    "sigmoid": Loss(sigmoid_loss, of_margin=True),
    "ipo": Loss(ipo_loss, mean_tokens=True, of_margin=True),
    "hinge": Loss(hinge_loss, of_margin=True),
    "robust": Loss(robust_loss, of_margin=True),
    "exo_pair": Loss(exo_pair_loss, of_margin=True),
    "nca_pair": Loss(nca_pair_loss),
    "apo_zero": Loss(apo_zero_loss),
    "apo_down": Loss(apo_down_loss),
    "sppo_hard": Loss(sppo_hard_loss),
    "bco_pair": Loss(bco_pair_loss),
    "dpop": Loss(dpop_loss),
    "linear": Loss(linear_loss, of_margin=True),
    "capo": Loss(capo_loss, of_margin=True, only="images"),
    "mapo": Loss(mapo_loss, reference_free=True, only="images"),
    "sigmoid_norm": Loss(sigmoid_norm_loss, mean_tokens=True, of_margin=True, only="text"),
    "aot": Loss(aot_loss, of_step=True, only="text"),
    "aot_unpaired": Loss(aot_unpaired_loss, of_step=True, only="text"),
    "bco_pair_mean": Loss(bco_pair_mean_loss, running_mean=True, only="text"),
    "discopop": Loss(discopop_loss, of_margin=True, only="text"),
    "simpo": Loss(simpo_loss, reference_free=True, mean_tokens=True, only="text"),
    "alphapo": Loss(alphapo_loss, reference_free=True, mean_tokens=True, only="text"),
    "cpo": Loss(cpo_loss, reference_free=True, with_sft=True, only="text"),
    "cpo_hinge": Loss(cpo_hinge_loss, reference_free=True, with_sft=True, only="text"),
    "cpo_ipo": Loss(
        cpo_ipo_loss, reference_free=True, mean_tokens=True, with_sft=True, only="text"
    ),
    "orpo": Loss(orpo_loss, reference_free=True, mean_tokens=True, only="text"),
    "sft": Loss(sft_loss, reference_free=True, mean_tokens=True, mean_of_batch=True),
    "kto": Loss(kto_loss, paired=False, needs_kl=True),
    "bco": Loss(bco_loss, paired=False, running_mean=True, only="text"),
    "apo_zero_unpaired": Loss(apo_zero_unpaired_loss, paired=False),
}


def preference_loss(
    name: str,
    chosen_B: Tensor,
    rejected_B: Tensor,
    *,
    beta: float,
    label_smoothing: float | None = None,
    kl: Tensor | float = 0.0,
    nll_B: Tensor | None = None,
    gap_B: Tensor | None = None,
    reference_margin_B: Tensor | None = None,
    **options: float,
) -> Tensor:
    """Loss per pair, shape ``(B,)``, float32 at least, of the row ``name`` of ``LOSSES``.

    ``chosen_B`` and ``rejected_B`` are rewards before beta: policy score − reference score in nats
    (for a reference-free loss the policy score). An unpaired loss counts both items of a pair and
    returns their mean. ``kl`` is the reference point of a loss that has one, in nats as well.
    ``label_smoothing`` None means the loss's own default. 0 is taken by losses without smoothing
    too, but not by exo_pair, whose divergence is infinite there.

    Raises ValueError for an unknown name, a beta that is not positive, a gap or margin that is
    missing, and a setting that the loss does not read or not take.
    """
    if name not in LOSSES:
        raise ValueError(f"unknown loss {name!r}; known: {', '.join(LOSSES)}")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}")
    row = LOSSES[name]
    if label_smoothing is not None and (label_smoothing != 0 or "label_smoothing" in row.options):
        options["label_smoothing"] = label_smoothing
    given = {"nll_B": nll_B, "gap_B": gap_B, "baseline": kl}
    given["reference_margin_B"] = reference_margin_B
    data = {what: given[what] for what in row.data}
    check_read(name, options, data)
    chosen_B, rejected_B = at_least_float32(chosen_B), at_least_float32(rejected_B)
    if row.paired:
        return row.fn(chosen_B, rejected_B, beta=beta, **data, **options)
    yes_B, no_B = torch.ones_like(chosen_B), torch.zeros_like(rejected_B)
    chosen_loss_B = row.fn(chosen_B, yes_B, kl, beta=beta, **options)
    return (chosen_loss_B + row.fn(rejected_B, no_B, kl, beta=beta, **options)) / 2


NEEDED = {
    "gap_B": "the gap of every pair",
    "reference_margin_B": "the reference's margins",
}


def check_read(name: str, options: Mapping[str, float], data: Mapping[str, Any]) -> None:
    """Raises ValueError for an option that the loss ``name`` does not read, and for ``data`` that
    it needs and that are None."""
    if unread := set(options) - LOSSES[name].options:
        raise ValueError(f"loss {name!r} does not read {', '.join(sorted(unread))}")
    for what, words in NEEDED.items():
        if what in data and data[what] is None:
            raise ValueError(f"loss {name!r} needs {words}, {what}")
