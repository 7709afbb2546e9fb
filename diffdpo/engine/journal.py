"""metrics.jsonl: one line per optimizer step, floats at full precision, no step twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffdpo.engine.files import write_atomically
from diffdpo.errors import UserError


class Journal:
    """The metrics file of a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[dict[str, Any]]:
        """Every whole line; a last line that a crash cut short is dropped."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def last(self) -> dict[str, Any]:
        """The newest line; nothing where there is none."""
        return (self.read() or [{}])[-1]

    def keep_until(self, step: int) -> None:
        """Forget all after ``step``: a resumed run will write those lines again."""
        kept = [record for record in self.read() if record["step"] <= step]
        write_atomically(self.path, "".join(json.dumps(record) + "\n" for record in kept))

    def append(self, records: list[dict[str, Any]]) -> None:
        """Add lines. Raises UserError where the disk does not take them."""
        try:
            with self.path.open("a") as file:
                file.write("".join(json.dumps(record) + "\n" for record in records))
        except OSError as error:
            raise UserError(
                f"{self.path}: could not be written ({error.strerror}); make room and resume"
            ) from error
