"""The table of losses: ``python scripts/benchmark losses``. Every loss of images trains on the same
pairs, with none of their labels flipped, some, and half of them, and is judged."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.flags import flag
from scripts.benchmark.contestant import ROOT, Failed
from scripts.benchmark.held_out import HeldOutSettings
from scripts.benchmark.losses.crew import Crew
from scripts.benchmark.losses.figures import row_of
from scripts.benchmark.losses.page import chart, markdown
from scripts.benchmark.losses.plan import (
    MODELS,
    SHARES,
    Cell,
    Conditions,
    cells,
    image_losses,
    named,
)
from scripts.benchmark.output import json_of_rows, write_result
from scripts.benchmark.work import claimed

PAGE, KEPT = ROOT / "docs" / "losses.md", ROOT / "assets" / "losses"
BLOCK = re.compile(r"(?<=<!-- losses -->\n).*?(?=<!-- end of losses -->)", re.DOTALL)
# What decides the figures: runs of other values are not mixed.
FIXED = ("steps", "captions", "pictures", "draws", "num_inference_steps", "small")


@dataclass(frozen=True)
class LossesSettings(HeldOutSettings):
    """All flags of ``python scripts/benchmark losses``."""

    losses: list[str] = flag([], "losses by name; default: all of images")
    models: list[str] = flag([], f"models by name: {' or '.join(MODELS)}; default: all")
    shares: list[float] = flag(list(SHARES), "shares of flipped labels; 0.5 are coin tosses")
    steps: int = flag(60, "steps of every training", least=1)
    pictures: int = flag(2, "pictures of each caption", least=2)
    jobs: int = flag(1, "runs at once, each in a process", least=1)
    threads: int = flag(1, "CPU threads of each", least=1)
    minutes: float | None = flag(None, "begin no run after so many minutes", above=0)
    work_dir: str = flag("runs/losses", "folder of runs and logs; the same command goes on")
    output: str | None = flag(None, "where .json, .md and .png go; default: losses in --work_dir")
    update: bool = flag(False, "keep the figures in assets, and the tables in docs/losses.md")

    def problems(self) -> list[str]:
        outside = [share for share in self.shares if not 0 <= share <= 0.5]
        lines = [f"--shares {share:g}: must lie from 0 to 0.5" for share in outside]
        return super().problems() + lines

    def conditions(self, work: Path) -> Conditions:
        """What all runs have in common."""
        steps, pictures = (2, 2) if self.small else (self.steps, self.pictures)
        captions, draws, sampling = self.judged_on
        return Conditions(str(work), steps, captions, pictures, draws, sampling)

    def plan(self) -> list[Cell]:
        """All runs in their order. Raises UserError for a name that is not known."""
        models = named(self.models, list(MODELS), "models")
        losses = named(self.losses, image_losses(), "losses")
        return cells(models, self.shares, losses, self.run_seeds)


def main(settings: LossesSettings) -> int:
    """Train, judge, write; returns 1 where a run failed."""
    begun = time.monotonic()
    chart([])  # raises UserError without matplotlib: now, and not after all runs
    plan = settings.plan()
    work = claimed(settings.work_dir, {name: asdict(settings)[name] for name in FIXED})
    (work / "results").mkdir(exist_ok=True)
    todo = [cell for cell in plan if not cell.result(work).exists()]
    say(f"losses       {len(plan)} runs of {settings.conditions(work).steps} steps in"
        f" {settings.work_dir}, {len(plan) - len(todo)} of them done;"
        f" {settings.jobs} at once")  # fmt: skip
    until = begun + 60 * settings.minutes if settings.minutes else math.inf
    failures = carry_out(settings, work, todo, until) if todo else {}
    write(settings, work)
    missing = [cell for cell in plan if not cell.result(work).exists()]
    if left := [cell for cell in missing if cell.name not in failures]:
        say(f"left         {len(left)} runs; the same command goes on")
    for name, reason in failures.items():
        say(f"failed       {name}: {reason}")
    return int(bool(failures))


def carry_out(
    settings: LossesSettings, work: Path, todo: Sequence[Cell], until: float
) -> dict[str, Failed]:
    """All runs that are to be done, until it is too late; returns those that failed, by name."""
    failures = {}
    models = list(dict.fromkeys(cell.model for cell in todo))
    with Crew(settings.conditions(work), min(settings.jobs, len(todo)), settings.threads) as crew:
        # What all runs of a model read is made once, before any of them.
        for at, answer in crew.answers([{"model": model} for model in models]):
            if isinstance(answer, Failed):
                failures[f"preparing {models[at]}"] = answer
        if failures:
            return failures
        with tqdm(total=len(todo), unit="run") as bar:
            for at, answer in crew.answers([asdict(cell) for cell in todo], until):
                if isinstance(answer, Failed):
                    failures[todo[at].name] = answer
                elif answer is not None:
                    text = json.dumps(answer, indent=1) + "\n"
                    write_atomically(todo[at].result(work), text)
                bar.update(answer is not None)
    return failures


def every_row(work: Path) -> list[dict[str, Any]]:
    """The rows of all results of a folder, a seed after the other."""
    results = [json.loads(path.read_text()) for path in (work / "results").glob("*.json")]
    rows = [row_of(cell_of(found), found) for found in results]
    return sorted(rows, key=lambda row: (row["seed"], row["model"], row["share"], row["loss"]))


def cell_of(found: dict[str, Any]) -> Cell:
    """Which run a result is of."""
    return Cell(**{field.name: found[field.name] for field in fields(Cell)})


def write(settings: LossesSettings, work: Path) -> None:
    """Write tables, figures and the picture of all that is judged."""
    rows = every_row(work)
    output = Path(settings.output or work / "losses")
    conditions = asdict(settings.conditions(work))
    del conditions["work"]
    text, page = json_of_rows(conditions, rows), markdown(rows) + "\n"
    write_result(output, md=page, json=text, png=chart(rows))
    if settings.update:
        write_result(KEPT, json=text, png=chart(rows))
        shown = BLOCK.sub(lambda match: f"\n{page}\n", PAGE.read_text())
        write_atomically(PAGE, shown)
    say(f"result       {output}.json, .md and .png, of {len(rows)} runs")
