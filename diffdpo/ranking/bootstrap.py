"""Intervals by fitting again to games drawn with replacement."""

from __future__ import annotations

import numpy as np
from tqdm import tqdm

from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError
from diffdpo.ranking.cells import Codes, Floats
from diffdpo.ranking.likelihood import Likelihood
from diffdpo.ranking.newton import NoMaximum, maximise
from diffdpo.ranking.uncertainty import ranks

# Leaving out resamples without a maximum leaves out the most extreme ones; a few do no harm.
TOLERATED = 0.05


def resampled(
    likelihood: Likelihood, best_P: Floats, samples: int, seed: int, progress: bool
) -> tuple[Floats, int]:
    """(S, P) parameters fitted to resampled games, and in how many resamples there was no
    maximum."""
    count = likelihood.cells.count
    total, found = int(count.sum()), []
    for sample in tqdm(range(samples), desc="bootstrap", disable=None if progress else True):
        drawn = generator(seed, Purpose.BOOTSTRAP, draw=sample).multinomial(
            total, count / count.sum()
        )
        try:
            found.append(maximise(likelihood.counted(drawn.astype(np.float64)), best_P).x_P)
        except NoMaximum:
            continue
    failed = samples - len(found)
    if failed > TOLERATED * samples:
        raise UserError(
            f"bootstrap: {failed} of {samples} resamples have no finite maximum, so the intervals"
            " would be too short; set a prior (prior_std) or use the interval `sandwich`"
        )
    return np.array(found), failed


def percentiles(found_SP: Floats, level: float) -> Floats:
    """(P, 2): what the middle ``level`` of the resampled values spans."""
    tail = (1 - level) / 2
    return np.quantile(found_SP, [tail, 1 - tail], axis=0).T


def rank_percentiles(strength_Sn: Floats, level: float) -> Codes:
    """(n, 2): the same for the ranks, rounded outwards."""
    tail = (1 - level) / 2
    rank_Sn = np.array([ranks(strength) for strength in strength_Sn])
    low = np.quantile(rank_Sn, tail, axis=0, method="lower")
    return np.stack([low, np.quantile(rank_Sn, 1 - tail, axis=0, method="higher")], axis=1).astype(
        np.int64
    )
