"""The win rate at equal lengths (Dubois et al. 2024, arXiv 2404.04475): judges like long answers,
so the length's part in a win is modelled and left out.

Shapes: ``N`` texts, ``B`` resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffdpo.draws import Purpose, generator
from diffdpo.metrics.intervals import (
    FEW,
    Clusters,
    Estimate,
    clustered_share,
    middle,
    resampled,
    wilson,
)

RESAMPLES = 2_000
PRIOR = 5.0  # nats, of the length's effect: keeps it finite where length alone decides
STEPS, LONGEST, EXACT = 100, 2.0, 1e-9  # of Newton's method

Array = NDArray[np.float64]


def length_controlled(
    wins: Sequence[float], gap: Sequence[float], prompts: Sequence[Any], seed: int = 0
) -> Estimate:
    """σ(θ) of the model win ~ σ(θ + φ tanh(gap / sd(gap))): the win rate at a ``gap`` of 0 between
    the length of the policy's text and the reference's, in any unit. Clustered by prompt.

    ``wins`` are from 0 to 1, ties ½. The paper's third term, the difficulty of an instruction, is
    shared by many models and cannot be told from one comparison; it is left out. The interval is
    the percentile one of whole prompts resampled, or Wilson's where the plain rate's is.
    """
    plain = clustered_share(wins, prompts, seed)
    won_N, gap_N = np.asarray(wins, float), np.asarray(gap, float)
    if not 0 < plain.value < 1 or not (spread := float(gap_N.std())):
        return plain
    length_N = np.tanh(gap_N / spread)
    value = float(at_equal_lengths(won_N, length_N, np.ones((1, len(won_N))))[0])
    if plain.clusters < FEW:
        effective = Clusters.of(wins, prompts).effective
        return replace(plain, value=value, interval=wilson(value, effective))
    interval = middle(rates_of_resamples(won_N, length_N, prompts, seed))
    return replace(plain, value=value, interval=interval)


def rates_of_resamples(won_N: Array, length_N: Array, prompts: Sequence[Any], seed: int) -> Array:
    """The rates ``(RESAMPLES,)`` of resamples of whole prompts."""
    names, cluster_N = np.unique([str(name) for name in prompts], return_inverse=True)
    size, random = len(names), generator(seed, Purpose.BOOTSTRAP, draw=2)

    def rates(count: int) -> Array:
        times_BG = random.multinomial(size, np.full(size, 1 / size), size=count)
        return at_equal_lengths(won_N, length_N, times_BG[:, cluster_N].astype(float))

    return resampled(rates, RESAMPLES, len(won_N))


def at_equal_lengths(won_N: Array, length_N: Array, weight_BN: Array) -> Array:
    """σ(θ) ``(B,)`` of the most likely θ and φ under each row of weights, φ ~ N(0, PRIOR²), by
    Newton's method; a row of wins alone, or of none, has its share."""
    total_B = weight_BN.sum(axis=1)
    share_B = weight_BN @ won_N / total_B
    mixed_B = (share_B > 0) & (share_B < 1)
    edge_B = np.clip(share_B, 1e-6, 1 - 1e-6)
    theta_B, phi_B = np.log(edge_B / (1 - edge_B)), np.zeros_like(share_B)
    for _ in range(STEPS):
        chance_BN = 1 / (1 + np.exp(-(theta_B[:, None] + phi_B[:, None] * length_N)))
        rest_BN = weight_BN * (won_N - chance_BN)
        spread_BN = weight_BN * chance_BN * (1 - chance_BN)
        slope_B, slope_of_length_B = rest_BN.sum(axis=1), rest_BN @ length_N - phi_B / PRIOR**2
        a_B, b_B = spread_BN.sum(axis=1) + EXACT, spread_BN @ length_N
        c_B = spread_BN @ length_N**2 + 1 / PRIOR**2
        area_B = a_B * c_B - b_B**2
        steps = (c_B * slope_B - b_B * slope_of_length_B, a_B * slope_of_length_B - b_B * slope_B)
        step_B2 = np.stack(steps, axis=1) / area_B[:, None]
        # Far from the solution a full step may go past it.
        step_B2 = mixed_B[:, None] * np.clip(step_B2, -LONGEST, LONGEST)
        theta_B, phi_B = theta_B + step_B2[:, 0], phi_B + step_B2[:, 1]
        if np.abs(step_B2).max() < EXACT:
            break
    return np.where(mixed_B, 1 / (1 + np.exp(-theta_B)), share_B)
