"""What tells a data set that ``make_pairs`` wrote: its record, and the columns that are its own."""

from __future__ import annotations

from collections.abc import Iterable

RECORD = "make_pairs.json"  # beside the rows; also in the schema of their files
IN_SCHEMA = b"diffdpo.make_pairs"
SIDES = (("0", "1"), ("chosen", "rejected"))  # of pictures and of texts
WEIGHT = "weight"


def foreign(columns: Iterable[str], there: Iterable[str]) -> list[str]:
    """Those of ``columns`` that nobody but the user put into a data set with the columns
    ``there``."""
    names = set(there)
    made = [both for both in SIDES if {f"candidate_{side}" for side in both} <= names]
    ends = tuple(f"_{side}" for both in made for side in both)
    return [name for name in columns if not (made and (name == WEIGHT or name.endswith(ends)))]
