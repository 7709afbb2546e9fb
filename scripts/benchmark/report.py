"""A benchmark's report: the page as Markdown, and everything as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields

from scripts.benchmark.results import Result
from scripts.benchmark.tables import (
    comparison_table,
    epoch_rows,
    epoch_table,
    operation_table,
    step_table,
    target_table,
    verdict,
)
from scripts.benchmark.targets import Target, targets

LIKE_FOR_LIKE = """Nothing is stored on either side, and every completion has a prompt of its own.
Cores are CPU seconds over wall seconds. On a CPU our trainers keep freed memory and flush denormals
(`tune_cpu` in `diffdpo/engine/accelerator.py`), which is worth about a tenth of a float32 step. In
this run {tuned}."""
TUNED = "every program was given both"
UNTUNED = "the other programs ran without, as they are"
TARGETS = """Rows with something stored are another claim: what our step computes from encodings and
reference scores on disk, beside a program that computes them in every step. The time to fill the
cache is under *Epochs*. *Best* is the quotient of the fastest repetitions, which other load
disturbs least; a target that only the median keeps is not met, and neither is one that is kept
while many programs are loaded, where other people's float32 steps were slower than alone."""
STEPS = """The bare network is the model's own forward and backward in the same process on the same
draws, with the reference's forward where a step needs one: a UNet's prediction for all rows, or a
language model's logits under cross-entropy, row by row."""


@dataclass
class Report:
    """Machine, settings, figures and notes of one benchmark."""

    machine: dict[str, str]
    settings: dict[str, object]
    results: dict[str, Result]
    network: float  # MiB of the UNet in float32
    epoch_steps: dict[str, int]  # by group
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_json(cls, text: str) -> Report:
        """The report that ``as_json`` wrote."""
        content = json.loads(text)
        names = {field.name for field in fields(Result)}
        rows = [{k: v for k, v in row.items() if k in names} for row in content["rows"]]
        results = {row["name"]: Result(**row) for row in rows}
        others = (content[name] for name in ("network", "epoch_steps", "notes"))
        return cls(content["machine"], content["settings"], results, *others)

    @property
    def targets(self) -> list[Target]:
        """All targets, for the epochs and the network of this report."""
        return targets(self.epoch_steps.get("full", 0), self.network)

    def markdown(self) -> str:
        """The whole page."""
        machine = ", ".join(f"{name} {fact}" for name, fact in self.machine.items())
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        rows = self.results
        like_for_like = LIKE_FOR_LIKE.format(tuned=TUNED if self.settings.get("tuned") else UNTUNED)
        sections = [
            "# Benchmark",
            f"{machine}.",
            (
                f"{settings}. Median over repetitions and, in brackets, their range; quotients are"
                " taken within a repetition."
            ),
            "\n".join(f"* {note}" for note in self.notes),
            f"## Like for like\n\n{like_for_like}\n\n{comparison_table(rows)}",
            f"## Targets\n\n{TARGETS}\n\n{target_table(self.targets, rows)}",
            f"## Steps and memory\n\n{STEPS}\n\n{step_table(rows.values())}",
            "## Where a step goes\n\n" + operation_table(rows.values()),
            "## Epochs\n\n" + epoch_table(rows, self.epoch_steps),
        ]
        return "\n\n".join(section for section in sections if section) + "\n"

    def as_json(self) -> str:
        """Every figure, and the verdicts."""
        content = {
            "machine": self.machine,
            "settings": self.settings,
            "notes": self.notes,
            "network": self.network,
            "epoch_steps": self.epoch_steps,
            "targets": [verdict(target, self.results) for target in self.targets],
            "epochs": epoch_rows(self.results, self.epoch_steps),
            "rows": [asdict(result) | {"build": result.build} for result in self.results.values()],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
