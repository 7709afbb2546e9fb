"""The tables: rows, targets and epochs, as Markdown; everything as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

from scripts.benchmark.results import Result, Spread, break_even, epoch_cost, quotient, spread
from scripts.benchmark.targets import Target

EPOCHS = (1, 2, 5, 10)


@dataclass
class Report:
    """All there is to say."""

    machine: dict[str, str]
    settings: dict[str, object]
    results: dict[str, Result]
    targets: list[Target]
    epoch_steps: dict[str, int]  # by group
    notes: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """The whole page."""
        machine = ", ".join(f"{name} {fact}" for name, fact in self.machine.items())
        asked = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        parts = [
            "# Benchmark",
            f"{machine}.",
            (
                f"{asked}. Median over repetitions and, in brackets, their range; quotients are"
                " taken within a repetition."
            ),
            "\n".join(f"* {note}" for note in self.notes),
            "## Targets\n\n" + target_table(self.targets, self.results),
            "## Steps and memory\n\n" + step_table(self.results.values()),
            "## Where a step goes\n\n" + operation_table(self.results.values()),
            "## Epochs\n\n" + epoch_table(self.results, self.epoch_steps),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def as_json(self) -> str:
        """Every figure, and the verdicts."""
        verdicts = [verdict(target, self.results) for target in self.targets]
        content = {
            "machine": self.machine,
            "settings": self.settings,
            "notes": self.notes,
            "targets": verdicts,
            "epochs": epoch_rows(self.results, self.epoch_steps),
            "rows": [asdict(result) | {"build": result.build} for result in self.results.values()],
        }
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value: Spread | None, unit: str = "", digits: int = 2) -> str:
    """Median and range; a single value has no range."""
    if value is None:
        return "–"
    median = f"{value.median:.{digits}f}{unit}"
    return (
        median
        if value.low == value.high
        else f"{median} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
    )


def verdict(target: Target, results: dict[str, Result]) -> dict[str, object]:
    """A target, what was measured, and whether it is met; None where it was not measured."""
    found = target.measure(results)
    return {
        "work": target.work,
        "against": target.against,
        "wanted": target.wanted,
        "measured": asdict(found) if found else None,
        "met": target.met(found) if found else None,
    }


def target_table(targets: list[Target], results: dict[str, Result]) -> str:
    """Wanted, measured, met."""
    rows = []
    for target in targets:
        found = target.measure(results)
        met = "not measured" if found is None else "yes" if target.met(found) else "no"
        rows.append((target.work, target.against, target.wanted, shown(found, "x"), met))
    return table(("work", "against", "target", "measured", "met"), rows)


def step_table(results: Iterable[Result]) -> str:
    """A row a subject."""
    head = (
        "row",
        "step, s",
        "CPU s",
        "over the bare network",
        "first run's build, s",
        "peak RAM, MiB",
        "GPU, MiB",
    )
    return table(head, [step_row(result) for result in results])


def step_row(result: Result) -> tuple[str, ...]:
    """The figures of one subject, or why there are none."""
    if result.error is not None:
        return (result.name, f"failed: {result.error}".replace("|", "/"), "", "", "", "", "")
    bare = shown(quotient(result.wall, result.bare_wall), "x", 3)
    build = f"{result.build:.1f}" if result.cold_setup is not None else ""
    gpu = "" if result.gpu is None else f"{result.gpu:.0f}"
    times = shown(spread(result.wall), digits=3), shown(spread(result.cpu), digits=3)
    return (result.name, *times, bare, build, f"{result.ram:.0f}", gpu)


def operation_table(results: Iterable[Result]) -> str:
    """Seconds of each kind of operation: its share of one profiled step, of the median step."""
    measured = [result for result in results if result.operations and result.step is not None]
    kinds = list(dict.fromkeys(kind for result in measured for kind in result.operations))
    rows = []
    for result in measured:
        seconds = (result.operations.get(kind, 0) * (result.step or 0) for kind in kinds)
        rows.append((result.name, *(f"{part:.3f}" for part in seconds)))
    return table(("row", *(f"{kind}, s" for kind in kinds)), rows)


def baseline(name: str, results: dict[str, Result]) -> Result | None:
    """Our own row without anything stored, which a stored one has to make up for."""
    plain = name.rsplit("-", 1)[0] + ("-live" if name.startswith("text") else "-uncached")
    return results.get(plain) if plain != name else None


def epoch_rows(results: dict[str, Result], steps: dict[str, int]) -> list[dict[str, object]]:
    """Cost of 1, 2, 5 and 10 epochs in seconds, and the epoch from which storing is cheaper than
    not."""
    rows: list[dict[str, object]] = []
    for result in results.values():
        if result.error is not None or result.step is None:
            continue
        count, plain = steps[result.group], baseline(result.name, results)
        costs = {str(epochs): epoch_cost(result, epochs, count) for epochs in EPOCHS}
        even = break_even(result, plain, count) if plain and result.cold_setup is not None else None
        rows.append(
            {"name": result.name, "build": result.build, "seconds": costs, "break_even": even}
        )
    return rows


def epoch_table(results: dict[str, Result], steps: dict[str, int]) -> str:
    """The same as a table."""
    head = (
        "row",
        "build, s",
        *(f"epochs: {epochs}, s" for epochs in EPOCHS),
        "cheaper than without from epoch",
    )
    rows = []
    for row in epoch_rows(results, steps):
        seconds: dict[str, float] = row["seconds"]  # type: ignore[assignment]
        stores = results[str(row["name"])].cold_setup is not None
        even = (
            str(row["break_even"] or "never")
            if stores and baseline(str(row["name"]), results)
            else ""
        )
        rows.append(
            (
                str(row["name"]),
                f"{row['build']:.1f}",
                *(f"{cost:.0f}" for cost in seconds.values()),
                even,
            )
        )
    return table(head, rows)
