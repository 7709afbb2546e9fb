"""How start, memory, step and stored tables grow with the number of rows; also beside another
checkout:

    python scripts/growth.py --against OTHER_CHECKOUT

Every cell is a command of the package in a process of its own, on rows made here: tiny pictures, or
texts of a given number of tokens. Times are CPU seconds of one thread, with those of the processes
that it starts, because other work on the machine changes them least.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Before the checkout's own modules are looked for: this folder's short names must hide nobody's.
sys.path[0] = str(ROOT)

from tqdm.auto import tqdm  # noqa: E402

from diffdpo.config import BaseSettings  # noqa: E402
from diffdpo.engine.console import say  # noqa: E402
from diffdpo.engine.files import write_atomically  # noqa: E402
from diffdpo.errors import UserError, short  # noqa: E402
from diffdpo.flags import flag  # noqa: E402
from scripts.growth_table import Cell, page  # noqa: E402

STORED = 64  # pairs that are stored beforehand, out of all rows
MARKER = ".diffdpo-growth"
PAGE = ROOT / "docs" / "scale.md"
BLOCK = re.compile(r"(?<=<!-- growth -->\n).*?(?=<!-- end of growth -->)", re.DOTALL)


@dataclass(frozen=True)
class GrowthSettings(BaseSettings):
    """All flags of ``python scripts/growth.py``."""

    kinds: list[str] = flag(
        ["image", "text-186", "text-756"], "image, or text- and the tokens of a row"
    )
    rows: list[int] = flag([1_000, 10_000, 100_000, 1_000_000], "numbers of rows, ascending")
    against: str | None = flag(None, "another checkout of this repository, measured as well")
    minutes: float = flag(
        10.0, "a start that would take longer, by the sizes before, is left out and named", above=0
    )
    work_dir: str = flag("runs/growth", "folder of rows, caches and logs; emptied at the start")
    output: str | None = flag(None, "where .json and .md go; default: growth in --work_dir")
    update: bool = flag(False, "keep the figures in assets, and the tables in docs/scale.md")

    def problems(self) -> list[str]:
        lines = super().problems()
        lines += [f"--kinds {short(kind)}: image, or text-NUMBER" for kind in self.kinds
                  if kind != "image" and not tokens_of(kind)]  # fmt: skip
        if self.rows != sorted(set(self.rows)) or min(self.rows, default=0) < STORED:
            lines.append(f"--rows: ascending numbers, from {STORED} on")
        if self.against and not (Path(self.against) / "diffdpo" / "__init__.py").is_file():
            lines.append(f"--against {short(self.against)}: no checkout of diffdpo there")
        return lines


def tokens_of(kind: str) -> int:
    """The number of tokens in the name of a kind of text; 0 where it is none."""
    word, _, number = kind.partition("-")
    return int(number) if word == "text" and number.isdecimal() else 0


def main(settings: GrowthSettings) -> int:
    """Measure every cell, print and write the tables; returns 1 where a command failed."""
    folder = fresh(settings.work_dir)
    output = Path(settings.output or folder / "growth")
    versions = {"now": ROOT} | (
        {"before": Path(settings.against).resolve()} if settings.against else {}
    )
    cells: list[Cell] = []
    with tqdm(total=len(settings.kinds) * len(settings.rows), unit="size") as bar:
        for kind in settings.kinds:
            for count in settings.rows:
                bar.set_postfix_str(f"{kind}, {count:,} rows")
                cells += cells_of(kind, count, versions, cells, settings.minutes, folder)
                content = json.dumps([vars(cell) for cell in cells], indent=1) + "\n"
                write_atomically(output.with_suffix(".json"), content)
                bar.update()
    text = page(cells)
    write_atomically(output.with_suffix(".md"), text)
    say(text, f"result       {output}.md and .json")
    if settings.update:
        keep(cells)
    return int(any(cell.error for cell in cells))


def keep(cells: list[Cell]) -> None:
    """Write the figures into assets/growth.json, and their tables into the page that shows them."""
    content = json.dumps([vars(cell) for cell in cells], indent=1) + "\n"
    write_atomically(ROOT / "assets" / "growth.json", content)
    shown = BLOCK.sub(lambda match: f"\n{page(cells)}", PAGE.read_text())
    write_atomically(PAGE, shown)


def fresh(name: str) -> Path:
    """The empty folder of one measurement. Raises UserError where it holds other files."""
    folder = Path(name).expanduser().resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise UserError(f"--work_dir {short(name)}: holds other files; name another")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    return folder


def cells_of(
    kind: str,
    count: int,
    versions: dict[str, Path],
    earlier: list[Cell],
    minutes: float,
    folder: Path,
) -> Iterator[Cell]:
    """The cells of one size, a version each; its rows and caches are deleted afterwards."""
    from scripts.growth_rows import make_rows

    work = folder / f"{kind}-{count}"
    rows = None
    for version, checkout in versions.items():
        cell = Cell(kind, count, version)
        if reason := too_long(cell, earlier, minutes):
            cell.left_out = reason
        else:
            rows = rows or make_rows(kind, count, work)
            measure(cell, checkout, rows, work / version)
        yield cell
    shutil.rmtree(work, ignore_errors=True)


def too_long(cell: Cell, earlier: list[Cell], minutes: float) -> str:
    """Why a cell is left out: what a start would take, by the two sizes before it; empty where it
    is not. What a start takes of any number of rows does not grow with them."""
    same = [one for one in earlier if (one.kind, one.version) == (cell.kind, cell.version)]
    if not same:
        return ""
    last = same[-1]
    if last.left_out or last.error:
        return last.left_out or "the size before it failed"
    if len(same) < 2:
        return ""
    slope = (last.longest - same[-2].longest) / (last.rows - same[-2].rows)
    expected = last.longest + slope * (cell.rows - last.rows)
    return f"over {minutes:g} minutes a start" if expected > 60 * minutes else ""


def measure(cell: Cell, checkout: Path, rows: Path, folder: Path) -> None:
    """A first start with its steps, a second one, and storing beforehand."""
    folder.mkdir(parents=True)
    model = ["--model_name_or_path", str(folder.parent / "model")]
    if cell.kind == "image":
        model = ["--pretrained_model_name_or_path", str(ROOT / "assets" / "emoji-pipeline")]
    data = [*model, "--dataset_name", str(rows), "--cache_dir", str(folder / "hub")]
    data += ["--precompute_dir", str(folder / "tables"), "--train_batch_size", "4"]
    data += ["--seed", "0", "--report_to", "none"]
    steps = ["--max_train_steps", "1000", "--checkpointing_steps", "1000"]
    if cell.kind == "image":
        steps += ["--rank", "4"]
    command = "train_diffusion_dpo" if cell.kind == "image" else "train_text_dpo"
    for name in ("first", "again"):
        facts = probe(cell, checkout, folder, name, [command, *data, *steps])
        if facts is None:
            return
        cell.facts |= {f"{name}_{key}": value for key, value in facts.items()}
        if name == "first":
            cell.facts["disk"] = size(folder / "hub") + size(folder / "tables")
    storing = ["precompute", *data, "--max_train_samples", str(STORED)]
    before = size(folder / "tables")
    if facts := probe(cell, checkout, folder, "store", storing):
        # The first call of a network is no part of the span.
        calls = facts["calls"]
        cell.facts["store"] = facts["span"] / STORED * calls / max(1, calls - 1)
        cell.facts["store_disk"] = (size(folder / "tables") - before) / STORED


def probe(
    cell: Cell, checkout: Path, folder: Path, name: str, words: list[str]
) -> dict[str, float] | None:
    """What a command of ``checkout`` took; None where it failed, with the reason in the cell."""
    result, log = folder / f"{name}.json", folder / f"{name}.log"
    flags = [*words[1:], "--output_dir", str(folder / name)]
    script = str(ROOT / "scripts" / "growth_probe.py")
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    caches = {"HF_DATASETS_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, script, words[0], str(result), *flags],
            cwd=checkout,
            env={**os.environ, **threads, **caches, "PYTHONPATH": str(checkout)},
            stdout=out,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode or not result.exists():
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        cell.error = short(lines[-1] if lines else f"exit code {done.returncode}", 120)
        return None
    facts: dict[str, float] = json.loads(result.read_text())
    return facts


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    from diffdpo.cli import Command, run

    command = Command(
        purpose="growth of start, memory and step with the number of rows",
        settings="scripts.growth:GrowthSettings",
        example="--against ../before",
    )
    sys.exit(run(command, "scripts.growth", "python scripts/growth.py", sys.argv[1:]))
