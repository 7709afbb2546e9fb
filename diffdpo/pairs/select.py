"""ADD A SELECTION HERE: which candidates of a prompt become a pair, by their scores.

A selection is a function of one prompt's candidates and a row of the table. Shapes: ``P`` prompts,
``N`` candidates of each, ``R`` rewards; higher scores are better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from diffdpo.draws import Purpose, generator


@dataclass(frozen=True)
class Candidates:
    """The candidates of one prompt: each one's score, its scores by single rewards, and an order of
    them by chance, in which equals are taken."""

    score_N: np.ndarray
    score_NR: np.ndarray
    order: Sequence[int]


Two = tuple[int, int]  # the better candidate and the worse one, or two equals
Selection = Callable[[Candidates], list[Two]]


def best_worst(those: Candidates) -> list[Two]:
    """The candidates of the highest and of the lowest score."""
    # Of equals the first and the last in an order by chance: never those that were sampled first.
    best = max(those.order, key=lambda i: those.score_N[i])
    worst = min(reversed(those.order), key=lambda i: those.score_N[i])
    return [(best, worst)]


def every_two(those: Candidates) -> list[Two]:
    """All pairs of candidates."""
    return [sorted_by_score(those, i, j) for i, j in combinations(range(len(those.order)), 2)]


def at_random(those: Candidates) -> list[Two]:
    """Two candidates by chance: what a judge alone is worth, without a choice of candidates."""
    return [sorted_by_score(those, *those.order[:2])]


def pareto(those: Candidates) -> list[Two]:
    """The two that lie furthest apart of the upper and the lower Pareto front, where one is as good
    as the other by every reward and better by one (CaPO, arXiv 2502.02588); none where
    the rewards contradict each other on any two.

    Where some candidate dominates another, one of the upper front dominates one of the lower.
    """
    over = [(i, j) for i in those.order for j in those.order if dominates(those.score_NR, i, j)]
    beaten, beating = {j for _, j in over}, {i for i, _ in over}
    between = [(i, j) for i, j in over if i not in beaten and j not in beating]
    return sorted(between, key=lambda two: gap(those, *two))[-1:]


SELECTIONS: dict[str, Selection] = {
    "best_worst": best_worst,
    "all": every_two,
    "random": at_random,
    "pareto": pareto,
}


def sorted_by_score(those: Candidates, i: int, j: int) -> Two:
    """Two candidates, the better one first."""
    return (i, j) if those.score_N[i] >= those.score_N[j] else (j, i)


def dominates(score_NR: np.ndarray, i: int, j: int) -> bool:
    """Whether candidate i is nowhere worse than j and somewhere better."""
    return bool((score_NR[i] >= score_NR[j]).all() and (score_NR[i] > score_NR[j]).any())


def gap(those: Candidates, i: int, j: int) -> float:
    """The difference of two candidates' scores."""
    return float(those.score_N[i] - those.score_N[j])


@dataclass(frozen=True)
class Pair:
    """A pair as it is written: two candidates of a prompt by their sides, and how they differ."""

    prompt: int
    sides: Two  # the first and the second candidate
    gap: float  # score of the first minus that of the second
    label: float  # P(first ≻ second)
    weight: float  # 1 over the number of pairs that the selection took of this prompt

    @property
    def chosen_first(self) -> Two:
        """The candidates with the better one first."""
        return self.sides if self.gap >= 0 else self.sides[::-1]


@dataclass(frozen=True)
class SelectSettings:
    """How pairs are chosen and labelled."""

    select: str = "best_worst"
    min_gap: float = 0.0
    soft_labels: float | None = None  # τ; None: labels are 0, 1/2 and 1
    seed: int = 0


@dataclass(frozen=True)
class Chosen:
    """The pairs of all prompts, and what became of the others."""

    pairs: list[Pair]
    contradicted: int = 0  # prompts without a pair: of no two is one better by every reward
    close: int = 0  # pairs that were left out, with a gap below the least

    @property
    def ties(self) -> int:
        """The number of pairs of equal scores."""
        return sum(pair.gap == 0 for pair in self.pairs)

    @property
    def gap_B(self) -> np.ndarray:
        """Better minus worse score of every pair."""
        return np.abs([pair.gap for pair in self.pairs])

    @property
    def effective(self) -> float:
        """Σ |2p − 1|: soft labels near 1/2 teach little, and ties nothing."""
        return float(sum(abs(2 * pair.label - 1) for pair in self.pairs))


def select(score_PNR: np.ndarray, keys: Sequence[int], settings: SelectSettings) -> Chosen:
    """The pairs of all prompts; ``keys`` are the numbers of the prompts, see ``prompt_key``."""
    chosen, contradicted, close = [], 0, 0
    score_PN = combined(score_PNR)
    for prompt, key in enumerate(keys):
        count = score_PN.shape[1]
        # Draw −1 is none of a candidate's, so that the order has no number in common with a seed.
        order = generator(settings.seed, Purpose.CANDIDATE, key, -1).permutation(count).tolist()
        those = Candidates(score_PN[prompt], score_PNR[prompt], order)
        found = SELECTIONS[settings.select](those)
        contradicted += not found
        wide = [two for two in found if gap(those, *two) >= settings.min_gap]
        close += len(found) - len(wide)
        for two in wide:
            sides = placed(two, settings.seed, key)
            apart = gap(those, *sides)
            label = probability(apart, settings.soft_labels)
            chosen.append(Pair(prompt, sides, apart, label, 1 / len(found)))
    return Chosen(chosen, contradicted, close)


def combined(score_PNR: np.ndarray) -> np.ndarray:
    """The score by which candidates are chosen, ``(P, N)``: that of the only reward as it is, or
    the mean of several, each in units of its own standard deviation within a prompt.

    One deviation for all prompts, √ of the mean variance within a prompt, and none for each: a
    reward that tells the candidates of some prompt hardly apart must not be blown up there, and a
    gap keeps its size. A reward that tells none apart counts nothing.
    """
    if score_PNR.shape[2] == 1:
        return score_PNR[:, :, 0]
    centred_PNR = score_PNR - score_PNR.mean(axis=1, keepdims=True)
    deviation_R = np.sqrt(score_PNR.var(axis=1).mean(axis=0))
    scaled_PNR = np.divide(
        centred_PNR, deviation_R, out=np.zeros_like(centred_PNR), where=deviation_R > 0
    )
    return scaled_PNR.mean(axis=2)


def placed(two: Two, seed: int, key: int) -> Two:
    """Two candidates as first and second side: a coin for each two of a prompt."""
    # By the two alone, so that they lie as they did whatever else is selected.
    low, high = sorted(two)
    coin = generator(seed, Purpose.SIDE, key, high * (high - 1) // 2 + low).integers(2)
    return (low, high) if coin else (high, low)


def probability(apart: float, tau: float | None) -> float:
    """P(first ≻ second) at a difference of scores: σ(gap/τ), or which is larger, 1/2 for equals."""
    if tau is None:
        return float(np.sign(apart) + 1) / 2
    # In double precision, and of the absolute gap, where nothing overflows.
    less = math.exp(-abs(apart) / tau)
    likely = 1 / (1 + less)
    return likely if apart >= 0 else 1 - likely
