"""The tables of a report, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

from scripts.benchmark.comparisons import COMPARISONS
from scripts.benchmark.results import Result, Spread, break_even, epoch_cost, quotient, spread
from scripts.benchmark.targets import Target

EPOCHS = (1, 2, 5, 10)


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


def seconds(values: list[float]) -> str:
    """Median and range of times."""
    return shown(spread(values), digits=3)


def ratio(value: Spread | None, digits: int = 1) -> str:
    """A quotient. One decimal: turns that followed each other differ by more than the second."""
    return shown(value, "x", digits)


def comparison_table(results: Mapping[str, Result]) -> str:
    """Wall and CPU seconds of a step, ours and theirs, and the cores in use."""
    sides = ("ours", "theirs", "theirs over ours")
    times = [f"{clock} {side}" for clock in ("wall s,", "CPU s,") for side in sides]
    head = ("work", "against", *times, "cores, ours", "cores, theirs")
    rows = []
    for comparison in COMPARISONS:
        if figures := comparison.figures(results):
            ours, theirs = figures.ours, figures.theirs
            wall = (seconds(ours.wall), seconds(theirs.wall), ratio(figures.wall))
            cpu = (seconds(ours.cpu), seconds(theirs.cpu), ratio(figures.cpu))
            cores = [f"{use.median:.2f}" if use else "–" for use in figures.cores]
            rows.append((comparison.work, comparison.theirs, *wall, *cpu, *cores))
    return table(head, rows) if rows else "No two such rows were measured."


def verdict(target: Target, results: dict[str, Result]) -> dict[str, object]:
    """A target, what was measured, and whether it is met; None where it was not measured."""
    measured = target.measure(results)
    return {
        "work": target.work,
        "against": target.against,
        "wanted": target.wanted,
        "measured": asdict(measured) if measured else None,
        "met": target.met(measured) and not target.crowded(results) if measured else None,
    }


def target_table(targets: list[Target], results: dict[str, Result]) -> str:
    """Bound, measured figure, and whether it is met, of the targets whose programs were run."""
    rows = []
    for target in targets:
        if (measured := target.measure(results)) is None:
            continue
        ranges, digits = measured.low < measured.high, target.digits
        best = f"{measured.best:.{digits}f}x" if ranges else ""
        words = target.work, target.against, target.wanted
        rows.append((*words, ratio(measured, digits), best, met(target, measured, results)))
    return table(("work", "against", "target", "measured", "best", "met"), rows)


def met(target: Target, measured: Spread, results: Mapping[str, Result]) -> str:
    """The verdict in words."""
    if target.met(measured):
        return "in a large group only" if target.crowded(results) else "yes"
    return "by the median alone" if target.keeps(measured.median) else "no"


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
    """The figures of one subject, or its error."""
    if result.error is not None:
        return (result.name, f"failed: {result.error}".replace("|", "/"), "", "", "", "", "")
    bare = ratio(quotient(result.wall, result.bare_wall), 2)
    build = f"{result.build:.1f}" if result.cold_setup is not None else ""
    gpu = "" if result.gpu is None else f"{result.gpu:.0f}"
    times = seconds(result.wall), seconds(result.cpu)
    return (result.name, *times, bare, build, f"{result.ram:.0f}", gpu)


def operation_table(results: Iterable[Result]) -> str:
    """Seconds of each kind of operation: its share of one profiled step, of the median step."""
    measured = [result for result in results if result.operations and result.step is not None]
    kinds = list(dict.fromkeys(kind for result in measured for kind in result.operations))
    rows = []
    for result in measured:
        times = (result.operations.get(kind, 0) * (result.step or 0) for kind in kinds)
        rows.append((result.name, *(f"{time:.3f}" for time in times)))
    return table(("row", *(f"{kind}, s" for kind in kinds)), rows)


def baseline(name: str, results: dict[str, Result]) -> Result | None:
    """Our own row with nothing stored, beside which the time to fill a cache pays or does not."""
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
        costs: dict[str, float] = row["seconds"]  # type: ignore[assignment]
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
                *(f"{cost:.0f}" for cost in costs.values()),
                even,
            )
        )
    return table(head, rows)
