"""What a cell of a table means as a number."""

from __future__ import annotations


def as_number(value: object) -> float:
    """A label or a score as a number, NaN where it is none; 1, "1" and True are the same."""
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return float("nan")
