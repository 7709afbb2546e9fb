"""rounds.json: which stages are finished, and with which settings."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.engine.files import write_atomically
from diffdpo.errors import UserError, short

FILE = "rounds.json"


@dataclass
class Record:
    """The finished stages of all rounds, by their names."""

    path: Path
    finished: dict[str, dict[str, Any]]

    @classmethod
    def open(cls, folder: Path) -> Record:
        """The record in a folder; an empty one where there is none.

        Raises UserError where it cannot be read.
        """
        path = folder / FILE
        if not path.exists():
            return cls(path, {})
        try:
            finished = json.loads(path.read_text())["finished"]
            return cls(path, {str(name): dict(content) for name, content in finished.items()})
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: cannot be read ({short(error)}); move it away to begin anew"
            ) from error

    def has(self, stage: str, settings: dict[str, Any]) -> bool:
        """Whether a stage is finished. Raises UserError where it was with other settings."""
        if stage not in self.finished:
            return False
        then, now = self.finished[stage], json.loads(json.dumps(settings))
        names = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        if names:
            raise UserError(
                f"--output_dir {self.path.parent}: {stage} was finished with other settings"
                f" ({', '.join(names)}); take another folder, or the settings of before"
            )
        return True

    def add(self, stage: str, settings: dict[str, Any]) -> None:
        """Note a stage as finished."""
        self.finished[stage] = json.loads(json.dumps(settings))
        write_atomically(self.path, json.dumps({"finished": self.finished}, indent=2) + "\n")
