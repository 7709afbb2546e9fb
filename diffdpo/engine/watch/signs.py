"""Signs of trouble in the records of the last steps: winner drift, saturation, spikes.

Pure functions of records, so that a resumed run, which reads them back, sees what it would have
seen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

Record = Mapping[str, Any]

WINDOW = 20  # steps
T_975 = 2.0930  # Student's t for a 95 % interval with WINDOW − 1 degrees of freedom
DRIFT = ("drift/winner", "drift/winner_low", "drift/winner_high")
WINNER = ("error/policy_chosen", "error/reference_chosen")
ACCURACY, GRADIENT, LOSS = "rewards/accuracies", "grad_norm", "loss"
SURE, FLAT = 0.98, 0.05  # saturation: accuracy from here, gradient below this share of the first
ODD, TIMES = 8.0, 3.0  # a spike: so many robust deviations off, and so many times the first level
MAD = 1.4826  # times the median absolute deviation is a normal distribution's standard deviation


@dataclass(frozen=True)
class Drift:
    """By what share of the reference's own error the policy's error on winners lies above it: the
    mean over the window, with its 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.1%} [{self.low:+.1%}, {self.high:+.1%}]"

    def as_metrics(self) -> dict[str, float]:
        """The figures for metrics.jsonl."""
        return dict(zip(DRIFT, (self.mean, self.low, self.high), strict=True))

    @classmethod
    def from_metrics(cls, record: Record) -> Drift | None:
        """What ``as_metrics`` wrote; None where a record has no such figures."""
        if any(record.get(name) is None for name in DRIFT):
            return None
        return cls(*(float(record[name]) for name in DRIFT))


def winner_drift(window: Sequence[Record]) -> Drift | None:
    """The drift over a full window of records; None where it is not full, or nothing has errors.

    A step's two errors are of the same pictures, timesteps and noises, so that their difference has
    little of the noise of either. Student's interval is of the mean difference; the steps of a
    window read other pairs or other draws and count as independent, and the error that divides
    counts as known.
    """
    if len(window) < WINDOW or not all(name in record for record in window for name in WINNER):
        return None
    policy, reference = ([float(record[name]) for record in window] for name in WINNER)
    rises = [p - r for p, r in zip(policy, reference, strict=True)]
    level = fmean(reference)
    if level <= 0:
        return None
    mean, half = fmean(rises) / level, T_975 * stdev(rises) / math.sqrt(len(rises)) / level
    return Drift(mean, mean - half, mean + half)


def is_saturated(window: Sequence[Record], first: Sequence[Record]) -> bool:
    """Whether hardly a pair is left that the policy has the wrong way round, and hardly a gradient,
    beside that of the ``first`` window of the run."""
    if min(len(window), len(first)) < WINDOW or not all(ACCURACY in record for record in window):
        return False
    now, then = (median(float(record[GRADIENT]) for record in part) for part in (window, first))
    return fmean(record[ACCURACY] for record in window) >= SURE and now <= FLAT * then


@dataclass(frozen=True)
class Spike:
    """A value of one step far above those of the window before it."""

    name: str
    value: float
    usual: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3g}, {self.usual:.3g} in the {WINDOW} steps before"


def spike(record: Record, window: Sequence[Record], first: Sequence[Record]) -> Spike | None:
    """The loss or gradient norm of a step that stands out: ``ODD`` robust deviations above the
    median of the window before it, and ``TIMES`` the median of the run's ``first`` window.

    The second keeps a policy that is sure, whose losses are all but 0 and vary by factors, from
    raising an alarm at every pair it has the wrong way round.
    """
    if min(len(window), len(first)) < WINDOW:
        return None
    for name in (LOSS, GRADIENT):
        before = [float(one[name]) for one in window]
        usual = median(before)
        spread = MAD * median(abs(value - usual) for value in before)
        level = TIMES * median(float(one[name]) for one in first)
        if 0 < level < record[name] and record[name] > usual + ODD * spread:
            return Spike(name, float(record[name]), usual)
    return None
