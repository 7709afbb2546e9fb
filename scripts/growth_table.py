"""The table of ``scripts/growth.py``: a row a kind and size, before and after, and the growth per
row."""

from __future__ import annotations

from dataclasses import dataclass, field

MB = 1e6
MIB = 1 << 20


@dataclass
class Cell:
    """What one version took at one size; or why there is nothing."""

    kind: str
    rows: int
    version: str  # now or before
    facts: dict[str, float] = field(default_factory=dict)
    left_out: str = ""
    error: str = ""

    @property
    def longest(self) -> float:
        """Seconds of its longest start."""
        return max(self.facts.get(f"{name}_start_wall", 0.0) for name in ("first", "again"))


@dataclass(frozen=True)
class Column:
    """A figure of the table: its name, the fact that it shows, and how many units that has."""

    name: str
    fact: str
    unit: float = 1.0
    digits: int = 1

    def of(self, cell: Cell) -> float | None:
        """The figure in its unit; None where it was not measured."""
        value = cell.facts.get(self.fact)
        return None if value is None else value / self.unit

    def shown(self, cell: Cell) -> str:
        """The same as text."""
        value = self.of(cell)
        return "–" if value is None else f"{value:,.{self.digits}f}"


COLUMNS = [
    Column("first start, CPU s", "first_start_cpu"),
    Column("next start, CPU s", "again_start_cpu"),
    Column("peak memory above imports, MiB", "first_memory", digits=0),
    Column("the same of the next start, MiB", "again_memory", digits=0),
    Column("first step, ms", "again_first_step", 1e-3, 0),
    Column("a step outside the network, ms", "again_step", 1e-3),
    Column("storing a pair, ms", "store", 1e-3, 2),
    Column("disk of a start, MB", "disk", MB, 0),
]
# Where the growth of a figure is worth a word, in a unit of a row.
PER_ROW = [
    ("first start", COLUMNS[0], 1e6, "µs"),
    ("next start", COLUMNS[1], 1e6, "µs"),
    ("memory", COLUMNS[2], float(MIB), "bytes"),
    ("memory of the next start", COLUMNS[3], float(MIB), "bytes"),
    ("disk", COLUMNS[7], MB, "bytes"),
]


def page(cells: list[Cell]) -> str:
    """All tables, a kind each."""
    kinds = list(dict.fromkeys(cell.kind for cell in cells))
    return "\n".join(table([cell for cell in cells if cell.kind == kind]) for kind in kinds)


def table(cells: list[Cell]) -> str:
    """The sizes of one kind, and its growth per row from the last size but one to the last."""
    versions = list(dict.fromkeys(cell.version for cell in cells))
    lines = [["rows", "version", *(column.name for column in COLUMNS)]]
    lines.append(["---"] * len(lines[0]))
    lines += [line(cell) for cell in sorted(cells, key=lambda cell: cell.rows)]
    shown = "\n".join("| " + " | ".join(row) + " |" for row in lines)
    growths = [growth([cell for cell in cells if cell.version == one]) for one in versions]
    return f"{cells[0].kind}\n\n{shown}\n\n" + "".join(f"{one}\n" for one in growths if one)


def line(cell: Cell) -> list[str]:
    """The row of a cell."""
    head = [f"{cell.rows:,}", cell.version]
    if reason := f"failed: {cell.error}" if cell.error else cell.left_out:
        return [*head, reason.replace("|", "/"), *[""] * (len(COLUMNS) - 1)]
    return head + [column.shown(cell) for column in COLUMNS]


def growth(cells: list[Cell]) -> str:
    """What a row more costs, between the two largest sizes that were measured."""
    measured = [cell for cell in cells if cell.facts and not cell.error]
    if len(measured) < 2:
        return ""
    small, large = sorted(measured, key=lambda cell: cell.rows)[-2:]
    words = []
    for name, column, unit, noun in PER_ROW:
        first, last = column.of(small), column.of(large)
        if first is not None and last is not None:
            slope = (last - first) * unit / (large.rows - small.rows)
            words.append(f"{name} {slope:,.1f} {noun}")
    sizes = f"{small.rows:,} to {large.rows:,} rows"
    return f"growth per row, {large.version}, {sizes}: {', '.join(words)}"
