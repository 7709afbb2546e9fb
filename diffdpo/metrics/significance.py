"""What a number of prompts can show: the half-width of an interval before anything is sampled, a
test of one figure, and Holm's correction for several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffdpo.draws import Purpose, generator
from diffdpo.metrics.intervals import Clusters

FLIPS = 10_000
EXACT = 12  # clusters of which all 2^12 = 4,096 choices of signs are looked at
AT_ONCE = 1 << 20  # signs in memory at a time
LEVEL = 0.05
ENOUGH = 100  # prompts; fewer resolve less than ±9.8 points


def half_width(prompts: int) -> float:
    """Half the width of the 95 % interval of a win rate near one half, where pictures of a prompt
    agree: 1.96 · ½ / √prompts."""
    return 0.98 / math.sqrt(prompts)


def resolution(prompts: int) -> str:
    """'120 prompts resolve ±9 points': what is known of a win rate before anything is sampled."""
    points = 100 * half_width(prompts)
    noun = "prompt resolves" if prompts == 1 else "prompts resolve"
    return f"{prompts:,} {noun} ±{points:.0f} points" if points >= 2 else (
        f"{prompts:,} {noun} ±{points:.1f} points"
    )  # fmt: skip


def sign_flip(values: Sequence[float], clusters: Sequence[Any], seed: int = 0) -> float:
    """Two-sided p-value of values that are symmetric about 0 under the null hypothesis, clusters
    independent of each other: the share of all choices of signs, one a cluster, under which the sum
    is as far from 0 as it was (Fisher 1935).

    All choices are looked at where the clusters are few, else ``FLIPS`` random ones, with the
    choice that was met among them (Phipson & Smyth 2010).
    """
    total_G = Clusters.of(values, clusters).total_G
    met = abs(float(total_G.sum()))
    least = met - 1e-9 * float(np.abs(total_G).sum())  # equal but for rounding is equal
    size = len(total_G)
    if size <= EXACT:
        bits = np.arange(2**size)[:, None] >> np.arange(size) & 1
        return float((np.abs((2 * bits - 1) @ total_G) >= least).mean())
    random, found = generator(seed, Purpose.BOOTSTRAP, draw=1), 0
    step = max(1, AT_ONCE // size)
    for first in range(0, FLIPS, step):
        signs = 2 * random.integers(0, 2, size=(min(step, FLIPS - first), size)) - 1
        found += int((np.abs(signs @ total_G) >= least).sum())
    return (1 + found) / (1 + FLIPS)


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """The p-values of a family, adjusted so that the chance of any false alarm among them is at
    most the level that they are compared with (Holm 1979)."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(values, key=lambda name: values[name])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in values}
