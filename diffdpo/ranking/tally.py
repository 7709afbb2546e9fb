"""Rows of comparisons, checked and added up batch by batch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np

from diffdpo.errors import UserError, short
from diffdpo.ranking.cells import Cells, Codes, Floats, concatenated, merged, oriented

# With a larger share of bad rows the file is probably not what its reader thinks it is.
TOLERATED_SHARE = 0.05
SHOWN = 5
MOST = 1e15  # beyond it, numbers next to each other are no longer told apart
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}


@dataclass(frozen=True)
class Games:
    """All comparisons, added up. ``items[k]`` is what code ``k`` in the cells stands for."""

    items: list[Hashable]
    cells: Cells
    skipped: list[str] = field(default_factory=list)


def number(value: Any) -> float:
    """A cell of a table as a number; NaN if it is none."""
    if isinstance(value, (complex, np.complexfloating)):
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        return WORDS.get(str(value).strip().lower(), math.nan)


def numbers(values: Any, size: int, default: float) -> Floats:
    """A column as floats: ``default`` where the table has no such column, NaN where a value is not
    a number."""
    if values is None:
        return np.full(size, default)
    try:
        # Dates and complex numbers would become floats as well.
        if isinstance(values, list) or np.asarray(values).dtype.kind in "biufOSU":
            return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        pass
    plain = values.to_pylist() if hasattr(values, "to_pylist") else values
    return np.array([number(value) for value in plain], dtype=np.float64)


class GameTally:
    """Adds up rows batch by batch: memory follows the number of different comparisons, not of
    rows."""

    def __init__(self, *, use_order: bool, source: str, unit: str = "row") -> None:
        self.use_order, self.source, self.unit = use_order, source, unit
        self.rows = 0
        self.bad = 0
        self.notes: list[str] = []  # on the file as a whole
        self._examples: list[tuple[int, str]] = []
        # Missing items have codes too, so that the look-up below stays one dictionary access.
        self._codes: dict[Any, int] = {None: 0, "": 1}
        self._missing = [0, 1]
        self._batches: list[Cells] = []
        self._pending = 0
        self._settled = 0

    def unread(self, present: Iterable[Any], roles: Mapping[str, str]) -> None:
        """Note the columns of a file that play no role."""
        read = set(roles.values())
        if "winner" in roles and not self.use_order:
            read.discard(roles.get("first", ""))  # who was shown first matters to a home effect
        if left := [str(name) for name in present if name and name not in read]:
            self.notes.append(f"{self.source}: columns not read: {short(', '.join(left))}")

    def reject(self, line: int, reason: str) -> None:
        """Count a row that cannot be used; the first few are kept to be shown."""
        self.bad += 1
        if len(self._examples) < SHOWN:
            self._examples.append((line, f"{self.unit} {line}: {reason}"))

    def add(self, columns: dict[str, Any], lines: Sequence[int]) -> None:
        """Add rows given as columns: ``winner, loser`` or ``first, second, outcome``; ``lines`` are
        their numbers."""
        rows, size = "winner" in columns, len(lines)
        left = self._encode(columns["winner" if rows else "first"])
        right = self._encode(columns["loser" if rows else "second"])
        tie = numbers(columns.get("tie"), size, 0.0)
        outcome = numbers(columns.get("outcome"), size, 1.0)
        count = numbers(columns.get("count"), size, 1.0)
        weight = numbers(columns.get("weight"), size, 1.0)
        order = self._order(left, right, columns.get("first") if rows else left)
        missing = np.isin(left, self._missing) | np.isin(right, self._missing)
        faults = {
            "an item is missing, or a list": missing,
            "an item against itself": ~missing & (left == right),
            "`count` must be a whole number of at least 0 (fractions belong in `weight`)": ~(
                (count >= 0) & (count == np.floor(count))
            ),
            f"`count` must be at most {MOST:.0e}": count > MOST,
            f"`weight` must be 0 or a number from {1 / MOST:.0e} to {MOST:.0e}": ~(
                (weight == 0) | ((weight >= 1 / MOST) & (weight <= MOST))
            ),
            "`outcome` must lie between 0 and 1": ~((outcome >= 0) & (outcome <= 1)),
            "`tie` must be 0 or 1": ~((tie == 0) | (tie == 1)),
            "`first` names neither of the two items": order == -2,
        }
        good = self._checked(lines, faults)
        cells = Cells(left, right, order, np.where(tie == 1, 0.5, outcome), weight, count)
        self._keep(merged(oriented(cells if good.all() else cells.where(good))))

    def finish(self) -> Games:
        """All rows added up. Raises where too many rows are bad; otherwise they are left out and
        listed."""
        total, examples = self.rows + self.bad, [text for _, text in sorted(self._examples)]
        if self.bad > TOLERATED_SHARE * total:
            more = [f"… and {self.bad - SHOWN} more"] if self.bad > SHOWN else []
            raise UserError(
                f"{self.source}: {self.bad} of {total} rows cannot be used", *examples, *more
            )
        cells = merged(concatenated(self._batches)) if self._batches else None
        if cells is None or not len(cells.first):
            raise UserError(f"{self.source}: no comparisons")
        skipped = (
            [f"{self.source}: left out {self.bad} of {total} rows", *examples] if self.bad else []
        )
        games = _named(cells, list(self._codes), self.notes + skipped)
        alike = Counter(map(str, games.items))
        if twins := [name for name, count in alike.items() if count > 1]:
            raise UserError(
                f"{self.source}: different items read alike, as text and as number:"
                f" {short(twins[0])}; write all of them in one way"
            )
        return games

    def _order(self, left: Codes, right: Codes, shown: Any) -> Codes:
        """Which of the two was shown first: +1 the left one, −1 the right one, 0 not said, −2
        neither of them."""
        if not self.use_order:
            return np.zeros_like(left)
        if shown is None:
            raise UserError(
                f"{self.source}: a home effect needs to know which item was shown first: "
                "add a column `first` that names it"
            )
        code = shown if shown is left else self._encode(shown)
        unknown = np.isin(code, self._missing)
        return np.select([unknown, code == left, code == right], [0, 1, -1], default=-2)

    def _checked(self, lines: Sequence[int], faults: dict[str, np.ndarray]) -> np.ndarray:
        """True for rows without a fault; the others are reported under their first one."""
        bad = np.any(list(faults.values()), axis=0)
        self.rows += int((~bad).sum())
        at = np.flatnonzero(bad)
        for row in at[: max(0, SHOWN - len(self._examples))]:
            self.reject(lines[row], next(reason for reason, mask in faults.items() if mask[row]))
            self.bad -= 1
        self.bad += len(at)
        return ~bad

    def _keep(self, cells: Cells) -> None:
        """Merge when the cells that wait outnumber those merged already, so that each row is merged
        a constant number of times."""
        self._batches.append(cells)
        self._pending += len(cells.first)
        if self._pending > max(1 << 18, self._settled):
            self._batches = [merged(concatenated(self._batches))]
            self._pending, self._settled = 0, len(self._batches[0].first)

    def _encode(self, values: Any) -> Codes:
        """Items as integers, the same for equal items in every batch."""
        if hasattr(values, "dictionary_encode"):
            try:
                encoded = values.dictionary_encode()
            except NotImplementedError:  # of pyarrow, for lists and structures
                return self._look_up(values.to_pylist())
            encoded = encoded.combine_chunks() if hasattr(encoded, "combine_chunks") else encoded
            code = self._look_up([*encoded.dictionary.to_pylist(), None])
            return code[encoded.indices.fill_null(len(code) - 1).to_numpy(zero_copy_only=False)]
        if isinstance(values, np.ndarray) and values.dtype.kind in "biufSU":
            distinct, inverse = np.unique(values, return_inverse=True)
            return self._look_up(distinct.tolist())[inverse]
        return self._look_up(values)

    def _look_up(self, values: Any) -> Codes:
        codes, before = self._codes, len(self._codes)
        try:
            result = np.fromiter(
                (codes.setdefault(value, len(codes)) for value in values), np.int64, len(values)
            )
        except TypeError:  # a list cannot be an item: the row counts as one without
            result = self._look_up([value if _hashable(value) else None for value in values])
        for value in islice(codes, before, None):
            if value != value:  # NaN is how tables spell a missing item
                self._missing.append(codes[value])
        return result


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def without(games: Games, dropped: np.ndarray) -> Games:
    """The games without some cells. Items that occur in no other are left out too, and listed."""
    left = _named(games.cells.where(~dropped), games.items, games.skipped)
    kept = set(left.items)
    gone = [str(item) for item in games.items if item not in kept]
    return (
        replace(left, skipped=[*left.skipped, f"only ties, so not ranked: {', '.join(gone)}"])
        if gone
        else left
    )


def _named(cells: Cells, names: list[Hashable], skipped: list[str]) -> Games:
    """New codes 0…n−1 for the items that occur, sorted where they can be compared, because the
    result must not depend on the order of the rows."""
    used = np.unique(np.concatenate([cells.first, cells.second]))
    try:
        key: Any = names.__getitem__  # items of any kind that can be ordered
        ranked = sorted(used.tolist(), key=key)
    except TypeError:
        ranked = used.tolist()
    code = np.zeros(len(names), dtype=np.int64)
    code[ranked] = np.arange(len(ranked))
    cells = replace(cells, first=code[cells.first], second=code[cells.second])
    return Games([names[old] for old in ranked], cells, skipped)
