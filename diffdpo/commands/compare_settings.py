"""The flags of ``compare``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.engine.run_config import FILE
from diffdpo.flags import flag

METRICS = "metrics.jsonl"


@dataclass(frozen=True)
class CompareSettings(BaseSettings):
    """All flags of ``compare.py``."""

    runs: list[str] = flag(
        [], "the folders of two or more runs, finished or not, of images or texts", positional=True
    )
    output_dir: str = flag("runs/comparison", "where report.html and compare.json go")

    def problems(self) -> list[str]:
        lines = super().problems()
        if len(self.runs) < 2:
            lines.append("compare: two or more runs are needed: diffdpo compare RUN RUN")
        for place, run in enumerate(self.runs):
            if not Path(run).is_dir():
                lines.append(f"{run}: no such folder")
            elif not any((Path(run) / name).is_file() for name in (FILE, METRICS)):
                lines.append(f"{run}: holds neither {FILE} nor {METRICS}; is it a run's folder?")
            if any(Path(run).resolve() == Path(other).resolve() for other in self.runs[:place]):
                lines.append(f"{run}: is named twice")
        return lines
