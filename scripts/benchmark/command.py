"""Our trainers beside older scripts and TRL on the same models, data and settings: one command,
tables and a chart."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from tqdm.auto import tqdm

from diffdpo.config import BaseSettings
from diffdpo.engine.console import say
from diffdpo.errors import UserError
from diffdpo.flags import flag
from scripts.benchmark.chart import step_chart
from scripts.benchmark.contestant import ROOT
from scripts.benchmark.gate import Schedule
from scripts.benchmark.machine import card_slug, cores, describe
from scripts.benchmark.memory import MIB
from scripts.benchmark.output import write_result
from scripts.benchmark.peers import Peer, recognise
from scripts.benchmark.race import Race, count_turns
from scripts.benchmark.report import Report
from scripts.benchmark.results import Result
from scripts.benchmark.size import FULL, SMALL, Work
from scripts.benchmark.subjects import (
    BATCH,
    REFERENCE_DRAWS,
    Subject,
    all_subjects,
    choose,
    has_trl,
)
from scripts.benchmark.work import fresh_folder, make_work, network_bytes

WARMUP = 2  # steps
SPARE = 2  # steps: one is profiled, and none of these is a run's last


@dataclass(frozen=True)
class BenchmarkSettings(BaseSettings):
    """All flags of ``python scripts/benchmark``."""

    subjects: list[str] = flag(
        [], "rows to measure, by name or pattern such as 'lora-*'; default: all"
    )
    peer_script: list[str] = field(
        default_factory=list,
        metadata={
            "help": "a Diffusion-DPO script of diffusers or Salesforce, run as it is",
            "action": "extend",
        },
    )
    repetitions: int = flag(5, "turns of every subject", least=1)
    steps: int = flag(
        2, "optimizer steps of a turn that are counted; one before them is not", least=1
    )
    threads: int | None = flag(None, "CPU threads of every subject; default: all cores", least=1)
    small: bool = flag(False, "tiny models: tries the command out, the figures mean nothing")
    work_dir: str = flag(
        "runs/benchmark", "folder of models, data, runs and logs; emptied at the start"
    )
    render: str | None = flag(
        None, "measure nothing: write .md and .png anew from this .json of an earlier run"
    )
    output: str | None = flag(
        None,
        "where .json, .md and .png go; default: the checkout's assets/benchmark, on a GPU with its"
        " name",
    )


def main(settings: BenchmarkSettings) -> int:
    """Make models and data, measure, write; returns 1 where a subject failed."""
    if settings.render is not None:
        write(read_report(settings.render), settings.render.removesuffix(".json"))
        return 0
    step_chart({})  # raises UserError without matplotlib: now, and not after an hour of measuring
    peers = [recognise(name) for name in settings.peer_script]
    schedule = Schedule(WARMUP, settings.steps, settings.repetitions)
    folder = fresh_folder(settings.work_dir)
    work = Work(folder / "work", SMALL if settings.small else FULL)
    chosen = choose(all_subjects(work, schedule.total + SPARE, peers), settings.subjects)
    notes = remarks(peers)
    say(*(f"note         {note}" for note in notes))
    say(f"work         models and data in {settings.work_dir}")
    make_work(work, {subject.kind for subject in chosen})
    results = measure(chosen, schedule, settings.threads or cores(), folder)
    output = settings.output or str(ROOT / "assets" / f"benchmark{card_slug()}")
    page = report(settings, work, results, notes)
    write_result(output, json=page.as_json())
    write(page, output)
    return int(any(result.error for result in results.values()))


def remarks(peers: list[Peer]) -> list[str]:
    """Missing packages and their stand-ins, a line each."""
    notes = [note for peer in peers for note in peer.notes()]
    if not has_trl():
        notes.append("trl is not installed; its rows are left out")
    return notes


def measure(
    subjects: list[Subject], schedule: Schedule, threads: int, folder: Path
) -> dict[str, Result]:
    """Results of every subject, one group after the other."""
    results: dict[str, Result] = {}
    with tqdm(total=count_turns(subjects, schedule), desc="measuring", unit="turn") as bar:
        for _, group in groupby(subjects, key=lambda subject: subject.group):
            results |= Race(list(group), schedule, threads, folder, bar).run()
    return results


def report(
    settings: BenchmarkSettings, work: Work, results: dict[str, Result], notes: list[str]
) -> Report:
    """The figures with their targets."""
    size = work.size
    image, text = size.pairs // BATCH, size.rows // BATCH
    steps = {
        result.group: text if result.group.startswith("text") else image
        for result in results.values()
    }
    facts: dict[str, object] = {
        "repetitions": settings.repetitions,
        "steps a repetition": settings.steps,
        "pairs a step": BATCH,
        "reference draws stored": REFERENCE_DRAWS,
        "tuned": "all programs",
    }
    if settings.small:
        notes = [*notes, "tiny models (--small): the figures mean nothing"]
    threads = settings.threads or cores()
    network = network_bytes(work) / MIB
    return Report(describe(threads), facts, results, network, steps, notes)


def read_report(path: str) -> Report:
    """The report of an earlier run. Raises UserError where the file is not one."""
    try:
        return Report.from_json(Path(path).read_text())
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"--render {path}: not a benchmark's .json ({reason})") from error


def write(page: Report, output: str) -> None:
    """Write the tables and the chart, and show the tables on the screen."""
    text = page.markdown()
    write_result(output, md=text, png=step_chart(page.results))
    say(text)
    say(f"result       {output}.md and .png")
