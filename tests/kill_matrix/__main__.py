"""``python -m tests.kill_matrix [--short]``: kills runs, prints a tally; code 0: all is well."""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from pathlib import Path

from tests.kill_matrix.cells import INT, KILL, TERM, Cell, Chain, cells, make_material
from tests.kill_matrix.compare import differences, left_by
from tests.kill_matrix.kills import finish, strike

MOMENTS = ["start", "load", "steps", "checkpoint", "export", "table"]


def carry_out(cell: Cell, chain: Chain, number: int, root: Path, tally: Counter) -> list[str]:
    """Kill one run again and again, let it end, and compare; returns what is wrong."""
    folder = root / f"{cell.name} in {cell.processes}, chain {number}".replace(" ", "-")
    log = folder.with_suffix(".log")
    for when, what in chain:
        tally[when, what] += strike(cell, folder, log, when, what)
    code = finish(cell, folder, log)
    if code:
        return [f"exit code {code}; see {log}"]
    return differences(left_by(folder), left_by(unbroken(cell, root)))


def unbroken(cell: Cell, root: Path) -> Path:
    """The folder of the cell's run without kills, made once."""
    folder = root / f"{cell.name} in {cell.processes}, unbroken".replace(" ", "-")
    if not folder.exists() and finish(cell, folder, folder.with_suffix(".log")):
        raise RuntimeError(f"{cell.name}: fails without kills; see {folder.with_suffix('.log')}")
    return folder


def matrix(root: Path, short: bool) -> bool:
    """Carry out every chain; prints a line for each and the tally. Returns whether all is well."""
    make_material(root, short)
    tally: Counter = Counter()
    planned, broken = 0, 0
    for cell in cells(root, short):
        for number, chain in enumerate(cell.chains, start=1):
            planned += len(chain)
            wrong = carry_out(cell, chain, number, root, tally)
            broken += bool(wrong)
            told = f"differs in {', '.join(wrong)}" if wrong else "as unbroken"
            name = f"{cell.name}, {cell.processes} processes, chain {number}"
            print(f"{name:<40} {len(chain)} kills: {told}", flush=True)
    print(f"\n{'moment':<12}" + "".join(f"{what:>6}" for what in (KILL, TERM, INT)))
    for when in MOMENTS:
        print(f"{when:<12}" + "".join(f"{tally[when, what]:>6}" for what in (KILL, TERM, INT)))
    landed = sum(tally.values())
    print(f"\n{landed} of {planned} kills landed; {broken} chains did not end as the unbroken run")
    return not broken and landed >= planned * 0.9  # a moment of milliseconds may be missed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        sys.exit(not matrix(Path(folder), "--short" in sys.argv[1:]))
