"""metrics.jsonl: one line for each optimizer step, floats at full precision, no step twice.

JSON has no NaN and no infinities. A metric with such a value is null, and "not_finite" names it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from diffdpo.engine.files import write_atomically
from diffdpo.errors import UserError, short

# What reading a line raises that is not the record of a step; bytes may not be UTF-8.
NO_RECORD = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
AWAY = "move it away to go on without its lines"


class Journal:
    """The metrics file of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """The record of every whole line; a last line that a crash cut short is dropped.

        Raises UserError where the file cannot be read, or a line is no record of a step.
        """
        if not self.path.exists():
            return []
        try:
            lines = self.path.read_text().splitlines(keepends=True)
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path}: cannot be read ({short(error)}); {AWAY}") from error
        whole = [line for line in lines if line.endswith("\n")]
        return [self.record(number, line) for number, line in enumerate(whole, start=1)]

    def record(self, number: int, line: str) -> dict[str, Any]:
        """The record of line ``number``. Raises UserError where it is none."""
        try:
            return from_line(line)
        except NO_RECORD as error:
            reason = short(f"{type(error).__name__}: {error}")
            raise UserError(
                f"{self.path}: line {number} is no record of a step ({reason}); {AWAY}"
            ) from error

    def last(self) -> dict[str, Any]:
        """The newest record; an empty one where there is none."""
        return (self.read() or [{}])[-1]

    def at(self, step: int) -> dict[str, Any]:
        """The record of a step; an empty one where there is none."""
        return next((record for record in self.read() if record["step"] == step), {})

    def keep_until(self, step: int) -> None:
        """Drop the records after ``step``: a resumed run writes those steps again.

        Raises UserError where the disk does not take the file.
        """
        # This also removes a line that was cut short, which the next ``append`` would continue.
        kept = [record for record in self.read() if record["step"] <= step]
        try:
            write_atomically(self.path, "".join(map(as_line, kept)))
        except OSError as error:
            raise self.not_written(error) from error

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add a line for each record. Raises UserError where the disk does not take them."""
        try:
            with self.path.open("a") as file:
                file.write("".join(map(as_line, records)))
        except OSError as error:
            raise self.not_written(error) from error

    def not_written(self, error: OSError) -> UserError:
        """What the user is told of a disk that does not take the file."""
        return UserError(
            f"{self.path}: could not be written ({error.strerror}); make room and resume"
        )


def as_line(record: dict[str, Any]) -> str:
    """A record as a line of valid JSON."""
    odd = {k: v for k, v in record.items() if isinstance(v, float) and not math.isfinite(v)}
    names = {"not_finite": {name: str(value) for name, value in odd.items()}} if odd else {}
    return json.dumps({**record, **dict.fromkeys(odd), **names}, allow_nan=False) + "\n"


def from_line(line: str | bytes) -> dict[str, Any]:
    """The record of a line, with the values that JSON cannot hold.

    Raises one of NO_RECORD where the line is not the record of a step.
    """
    record = json.loads(line)
    if not isinstance(record, dict):
        raise TypeError(f"{type(record).__name__}, not an object")
    step = record["step"]
    if not isinstance(step, int) or isinstance(step, bool):  # True is an int to Python
        raise TypeError("its step is not a whole number")
    odd = record.pop("not_finite", {})
    return {**record, **{name: float(word) for name, word in odd.items()}}
