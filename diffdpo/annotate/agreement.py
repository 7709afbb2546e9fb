"""What can be said of votes and of the people who gave them."""

from __future__ import annotations

import math
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.annotate.votes import DECIDED, Vote, agreeing
from diffdpo.draws import Purpose, generator
from diffdpo.metrics.intervals import Estimate, clustered_share, crossed_share

RESAMPLES = 1000


@dataclass(frozen=True)
class Alpha:
    """Krippendorff's α with its 95 % interval over pairs; None where it is undefined, as it is
    where all votes are alike."""

    value: float | None
    interval: tuple[float, float] | None
    pairs: int

    def __str__(self) -> str:
        if self.value is None or self.interval is None:
            return "undefined: all votes are alike" if self.pairs else "undefined: no pair has two"
        return f"{self.value:.2f} [{self.interval[0]:.2f}, {self.interval[1]:.2f}]"


@dataclass(frozen=True)
class Person:
    """One annotator: ``n`` choices without those skipped, ``fast`` of them faster than a look."""

    name: str
    n: int
    skipped: int
    fast: int
    median_ms: float
    left: Estimate | None  # share of decisions for what stood on the left
    repeats: Estimate | None  # share of pairs shown again that were decided as before
    others: float | None  # mean share of the others' votes on the same pairs that are theirs


@dataclass(frozen=True)
class Agreement:
    """All of it."""

    votes: int
    pairs: int  # with a vote
    shared: int  # with two or more
    share: Estimate | None  # of votes on the same pair that are alike, over pairs
    alpha: Alpha
    people: list[Person]


def agreement(votes: Sequence[Vote], seed: int = 0) -> Agreement:
    """The figures of the votes that hold."""
    counted = [vote for vote in votes if vote.decided and vote.kind == "normal"]
    by_pair: dict[int, list[Vote]] = defaultdict(list)
    for vote in counted:
        by_pair[vote.pair].append(vote)
    shared = {pair: given for pair, given in by_pair.items() if len(given) > 1}
    counts = {pair: Counter(vote.choice for vote in given) for pair, given in shared.items()}
    alike = [agreeing(count.values(), count.total()) for count in counts.values()]
    share = clustered_share(alike, list(counts), seed) if alike else None
    names = list(dict.fromkeys(vote.annotator for vote in votes))
    people = [person(name, votes, by_pair, seed) for name in names]
    table = np.array([[count[choice] for choice in DECIDED] for count in counts.values()])
    return Agreement(len(counted), len(by_pair), len(shared), share, alpha_of(table, seed), people)


def alpha_of(counts_UV: np.ndarray, seed: int = 0) -> Alpha:
    """Krippendorff's α for names (Krippendorff 2004), from the number of votes for each value on
    each pair ``(U, V)``; the interval is the middle 95 % over resampled pairs."""
    units = len(counts_UV)
    value = nominal(counts_UV) if units else None
    if value is None:
        return Alpha(None, None, units)
    random = generator(seed, Purpose.BOOTSTRAP)
    again = [nominal(counts_UV[random.integers(0, units, units)]) for _ in range(RESAMPLES)]
    low, high = np.quantile([a for a in again if a is not None], [0.025, 0.975])
    return Alpha(value, (float(low), float(high)), units)


def nominal(counts_UV: np.ndarray) -> float | None:
    """α of a table of counts; None where all votes are alike."""
    if (counts_UV.sum(axis=0) > 0).sum() < 2:
        return None
    import krippendorff  # here: win rates of votes are read without this extra

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        value = float(krippendorff.alpha(value_counts=counts_UV, level_of_measurement="nominal"))
    return value if math.isfinite(value) else None


def person(name: str, votes: Iterable[Vote], by_pair: dict[int, list[Vote]], seed: int) -> Person:
    """The figures of one annotator."""
    own = [vote for vote in votes if vote.annotator == name]
    decided = [vote for vote in own if vote.decided]
    first = {vote.pair: vote.choice for vote in decided if vote.kind == "normal"}
    sided = [vote for vote in decided if vote.choice in ("first", "second")]
    again = [vote for vote in decided if vote.kind == "repeat" and vote.pair in first]
    same = [float(vote.choice == first[vote.pair]) for vote in again]
    agreeing_with = [
        statistics.fmean(float(other.choice == choice) for other in others)
        for pair, choice in first.items()
        if (others := [vote for vote in by_pair[pair] if vote.annotator != name])
    ]
    left = [float(vote.choice == vote.left) for vote in sided]
    return Person(
        name=name,
        n=len(decided),
        skipped=len(own) - len(decided),
        fast=sum(vote.fast for vote in decided),
        median_ms=statistics.median([vote.ms for vote in decided]) if decided else math.nan,
        left=clustered_share(left, [v.pair for v in sided], seed) if left else None,
        repeats=clustered_share(same, [v.pair for v in again], seed) if same else None,
        others=statistics.fmean(agreeing_with) if agreeing_with else None,
    )


def win_rates(votes: Sequence[Vote], seed: int = 0) -> dict[tuple[str, str], Estimate]:
    """For every two items, by name: the share of votes for the first, ties and "both bad" as 1/2,
    clustered by prompt and by annotator."""
    by_items: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for vote in votes:
        if vote.decided and vote.kind == "normal":
            by_items[vote.first, vote.second].append(vote)
    worth = {"first": 1.0, "second": 0.0}
    return {
        items: crossed_share(
            [worth.get(vote.choice, 0.5) for vote in given],
            [vote.prompt for vote in given],
            [vote.annotator for vote in given],
            seed,
        )
        for items, given in by_items.items()
    }


def comparisons(votes: Iterable[Vote]) -> list[dict[str, Any]]:
    """Rows for ``fit_bradley_terry``: ``first`` is the item that stood on the left, so that
    ``--home`` estimates what standing there is worth; a tie or "both bad" is half a win. Two items
    of one name, as two pictures of one model, are not compared."""
    rows: Counter[tuple[str, str, float]] = Counter()
    for vote in votes:
        if not vote.decided or vote.kind != "normal" or vote.first == vote.second:
            continue
        outcome = {"first": 1.0, "second": 0.0}.get(vote.choice, 0.5)
        if vote.left == "first":
            rows[vote.first, vote.second, outcome] += 1
        else:
            rows[vote.second, vote.first, 1 - outcome] += 1
    return [
        {"first": first, "second": second, "outcome": outcome, "count": count}
        for (first, second, outcome), count in sorted(rows.items())
    ]


def strength_gain(votes: Sequence[Vote], runs: Sequence[str]) -> dict[frozenset[str], float]:
    """log(1 + p(1 − p) Var(θᵢ − θⱼ)) for every two runs: about what one more comparison of the two
    tells of their Bradley–Terry strengths, which have a N(0, 2²) prior."""
    from diffdpo.ranking import fit_bradley_terry

    rows, deviation = comparisons(votes), 2.0
    fit = fit_bradley_terry(rows, prior_std=deviation) if rows else None
    known = set(fit.items) if fit else set()
    gains = {}
    for place, one in enumerate(runs):
        for other in runs[:place]:
            p, variance = 0.5, 2 * deviation**2  # of the prior, where one was never compared
            if fit is not None and {one, other} <= known:
                p, variance = fit.probability(one, other), fit.difference(one, other).stderr ** 2
            gains[frozenset((one, other))] = math.log1p(p * (1 - p) * variance)
    return gains
