"""Strengths from comparisons: reading, checking, fitting, intervals."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffdpo.errors import UserError
from diffdpo.ranking.cells import Codes, Floats, describe, groups_of, summed
from diffdpo.ranking.elimination import DENSE_LIMIT
from diffdpo.ranking.likelihood import Likelihood
from diffdpo.ranking.newton import Maximum, NoMaximum, maximise
from diffdpo.ranking.result import ParameterEstimate, Ranking
from diffdpo.ranking.sources import read_comparisons
from diffdpo.ranking.tally import Games, without
from diffdpo.ranking.ties import CHOICES, DROP, TIES
from diffdpo.ranking.uncertainty import (
    Covariance,
    of_maximum,
    of_samples,
    percentiles,
    rank_intervals,
    rank_percentiles,
    resampled,
)

PRIORS = 1e-6, 1e6  # nats: narrower or wider ones leave nothing of the games, or of the prior
INTERVALS = ("fisher", "sandwich", "bootstrap")
RANKS_BY = {
    "bootstrap": "percentiles over resamples",
    "differences": "simultaneous intervals of differences (Bonferroni)",
    "strengths": "simultaneous intervals of strengths (Bonferroni)",
}
NO_MAXIMUM = {
    "strength": (
        "no finite strengths found: one side always wins once the home effect or the ties are"
        " accounted for; set a prior (prior_std), or a narrower one"
    ),
    "home": (
        "the home effect has no finite estimate: either the item shown first always wins (or always"
        " loses) once strengths are accounted for, or some items were only ever shown on one side;"
        " fit without home"
    ),
    "tie": (
        "the tie parameter has no finite estimate: strengths and ties together explain every"
        " outcome; use ties=half"
    ),
}


def fit_bradley_terry(
    comparisons: Any,
    *,
    outcome: Sequence[float] | None = None,
    count: Sequence[float] | None = None,
    weight: Sequence[float] | None = None,
    tie: Sequence[float] | None = None,
    first: Sequence[Any] | None = None,
    columns: Mapping[str, str] | None = None,
    ties: str = "half",
    home: bool = False,
    prior_std: float | None = None,
    interval: str = "fisher",
    level: float = 0.95,
    bootstrap_samples: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Ranking:
    """Fit P(i≻j) = π_i/(π_i+π_j) = σ(θ_i−θ_j) by maximum likelihood (Zermelo 1929; Bradley & Terry
    1952).

    ``comparisons``: pairs (winner, loser) or triples with a count; an array of two or three such
    columns; a pandas, arrow or ``datasets`` table or a dict with the columns ``winner, loser`` or
    ``first, second, outcome`` (the share of the win that goes to ``first``) and, optional,
    ``count`` (equal comparisons), ``weight`` (what a comparison counts for), ``tie`` (0/1) and
    ``first`` (the item shown first); a path to such a table (csv, tsv, jsonl, parquet). ``columns``
    renames: ``{"winner": "chosen_model"}``. The arrays beside pairs mean the same; with
    ``outcome``, the first of a pair is the winner by that share.

    ``ties``: "half" a win each, "davidson" and "rao-kupper" with a parameter of their own, "drop"
    leaves them out. ``home``: estimate the advantage of the item shown first. ``prior_std``:
    independent N(0, prior_std²) priors on the strengths, so a difference has prior variance
    2·prior_std²; the result is the posterior mode, whose mean is zero by itself; home effect and
    tie parameter have no prior.

    Raises UserError where no finite maximum exists; with ``prior_std``, strengths are always
    finite.
    """
    _check(ties, prior_std, interval, level, bootstrap_samples)
    beside = {"outcome": outcome, "count": count, "weight": weight, "tie": tie, "first": first}
    games = read_comparisons(
        comparisons, beside=beside, columns=columns, use_order=home, progress=progress
    )
    games = _with_ties_as(ties, games)
    if games.skipped:
        warnings.warn("; ".join(games.skipped), stacklevel=2)
    groups = _connected(games, prior_std)
    model = "half" if ties == DROP else ties
    likelihood = Likelihood(games.cells, len(games.items), model, home, prior_std, DENSE_LIMIT)
    try:
        maximum = maximise(likelihood)
        spread = _spread(likelihood, maximum, interval, level, bootstrap_samples, seed, progress)
    except NoMaximum as reason:
        raise UserError(NO_MAXIMUM[reason.parameter]) from None
    settings = {"ties": ties, "home": home, "prior_std": prior_std, "solver": "newton"}
    settings |= {"interval": interval, "level": level}
    return _ranking(games, likelihood, maximum, spread, groups, settings)


class Spread(NamedTuple):
    """How far the parameters may be off, by one method."""

    covariance: Covariance
    bounds_P2: Floats
    rank_bounds_n2: Codes
    method: dict[str, Any]


def _spread(
    likelihood: Likelihood,
    maximum: Maximum,
    interval: str,
    level: float,
    samples: int,
    seed: int,
    progress: bool,
) -> Spread:
    x_P, n = maximum.x_P, likelihood.size
    if interval == "bootstrap":
        samples_SP, failed = resampled(likelihood, x_P, samples, seed, progress)
        method = {
            "rank_interval": RANKS_BY["bootstrap"],
            "bootstrap_samples": samples,
            "without_maximum": failed,
        }
        rank_bounds = rank_percentiles(samples_SP[:, :n], level)
        return Spread(
            of_samples(samples_SP),
            percentiles(samples_SP, level),
            rank_bounds,
            {**method, "seed": seed},
        )
    covariance = of_maximum(likelihood, maximum, interval, seed)
    margin_P = covariance.margin(1 - level)
    bounds_P2 = np.stack([x_P - margin_P, x_P + margin_P], axis=1)
    method = {
        "rank_interval": RANKS_BY["strengths" if covariance.matrix is None else "differences"]
    }
    if covariance.freedom is not None:
        method["variance_samples"] = covariance.freedom
    return Spread(covariance, bounds_P2, rank_intervals(x_P[:n], covariance, level), method)


def _ranking(
    games: Games,
    likelihood: Likelihood,
    maximum: Maximum,
    spread: Spread,
    groups: list[Codes],
    settings: dict[str, Any],
) -> Ranking:
    cells, n, x_P = games.cells, len(games.items), maximum.x_P
    stderr_P = np.sqrt(spread.covariance.diagonal)
    bounds = [(float(low), float(high)) for low, high in spread.bounds_P2]
    extras = {
        name: ParameterEstimate(float(x_P[k]), float(stderr_P[k]), bounds[k])
        for k, name in enumerate(likelihood.extras, start=n)
    }
    wins = summed(cells.first, cells.count * cells.outcome, n)
    wins = wins + summed(cells.second, cells.count * (1 - cells.outcome), n)
    played = summed(cells.first, cells.count, n)
    return Ranking(
        items=games.items,
        strength=x_P[:n],
        stderr=stderr_P[:n],
        interval=spread.bounds_P2[:n],
        rank_interval=spread.rank_bounds_n2,
        wins=wins,
        games=played + summed(cells.second, cells.count, n),
        log_likelihood=maximum.slopes.value + likelihood.level / 2 * float(x_P[:n] @ x_P[:n]),
        home=extras.get("home"),
        tie=extras.get("tie"),
        method={**settings, **spread.method},
        groups=[[games.items[code] for code in group] for group in groups],
        skipped=games.skipped,
        covariance=spread.covariance,
    )


def _with_ties_as(ties: str, games: Games) -> Games:
    """The comparisons as the tie model wants them, or a reason why it cannot be fitted to them."""
    outcome = games.cells.outcome
    tied = outcome == 0.5
    if ties == DROP:
        if tied.all():
            raise UserError("every comparison is a tie: with the ties left out nothing remains")
        return without(games, tied)
    if TIES[ties].symbol:
        if not (tied | (outcome == 1)).all():
            raise UserError(
                f"soft outcomes between 0, 1/2 and 1 have no place in ties={ties}; use ties=half"
            )
        if tied.all() or not tied.any():
            have = "are only ties" if tied.all() else "is no tie"
            raise UserError(
                f"there {have} among the comparisons, so ties={ties} has no finite fit;"
                " use ties=half"
            )
    return games


def _connected(games: Games, prior_std: float | None) -> list[Codes]:
    """The groups of items between which strengths can be told, or a reason why they are several."""
    groups = groups_of(games.cells, len(games.items))
    if len(groups) > 1 and prior_std is None:
        raise UserError(
            f"no finite strengths exist: {describe(groups, games.items)}. "
            "Add comparisons between them, fit one group alone, or set a prior (prior_std)"
        )
    return groups


def _check(
    ties: str, prior_std: float | None, interval: str, level: float, bootstrap_samples: int
) -> None:
    mistakes = []
    if ties not in CHOICES:
        mistakes.append(f"ties: {ties!r} is none of {', '.join(CHOICES)}")
    if interval not in INTERVALS:
        mistakes.append(f"interval: {interval!r} is none of {', '.join(INTERVALS)}")
    if prior_std is not None and not PRIORS[0] <= prior_std <= PRIORS[1]:
        mistakes.append(
            f"prior_std: must be a number above 0, from {PRIORS[0]:g} to {PRIORS[1]:g}, is"
            f" {prior_std}"
        )
    if not 0 < level < 1:
        mistakes.append(f"level: must lie between 0 and 1, is {level}")
    if bootstrap_samples < 2:
        mistakes.append(f"bootstrap_samples: must be at least 2, is {bootstrap_samples}")
    if mistakes:
        raise UserError(*mistakes)
