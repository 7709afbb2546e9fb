"""Figures in words, for pictures and texts alike."""

from __future__ import annotations

from diffdpo.evaluation.scores import Rows, significant
from diffdpo.metrics.intervals import Estimate


def family_line(rows: Rows) -> str:
    """'2 of 3 rewards significant after Holm'."""
    return f"{significant(rows)} of {len(rows)} rewards significant after Holm"


def signed(estimate: Estimate, scale: float = 1.0) -> str:
    """'+0.31 [+0.2, +0.41]'."""
    low, high = estimate.interval
    value, low, high = (scale * number for number in (estimate.value, low, high))
    return f"{value:+.3g} [{low:+.3g}, {high:+.3g}]"
