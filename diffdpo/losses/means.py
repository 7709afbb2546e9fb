"""Metrics of micro-batches, and their means over a step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Metrics = dict[str, Tensor]  # a mean over the batch, or (sum, count) of a mean over some of it


def by_label(name: str, value_N: Tensor, desirable_N: Tensor) -> Metrics:
    """``name/chosen`` and ``name/rejected`` as (sum, count) over the items that have the label."""
    # Not as means: a micro-batch may have one desirable item or none, and a mean of such means
    # would weigh items unequally. The division comes last, in ``means_of``.
    labels = {"chosen": desirable_N, "rejected": ~desirable_N}
    return {
        f"{name}/{side}": torch.stack([(value_N * has_N).sum(), has_N.sum().float()])
        for side, has_N in labels.items()
    }


def mean_of(every_metrics: Sequence[Metrics]) -> Metrics:
    """The means over micro-batches of equal size, still on the device."""
    return {
        name: torch.stack([metrics[name] for metrics in every_metrics]).mean(dim=0)
        for name in every_metrics[0]
    }


def fraction(metric: Tensor) -> Tensor:
    """A metric as (sum, count); a plain mean becomes (mean, 1)."""
    if metric.dim():
        return metric.float()
    return torch.stack([metric.float(), metric.new_ones(()).float()])


def means_of(names: list[str], fractions: list[list[float]]) -> dict[str, float]:
    """The means of a step by name; a metric that counted no items is left out.

    Single items have no margin of their own: theirs is the difference of the two mean rewards.
    """
    sums = zip(names, fractions, strict=True)
    means = {name: total / count for name, (total, count) in sums if count}
    if {"rewards/chosen", "rewards/rejected"} <= set(means):
        means.setdefault("rewards/margins", means["rewards/chosen"] - means["rewards/rejected"])
    return means
