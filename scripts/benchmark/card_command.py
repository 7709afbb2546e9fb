"""Models of real shapes on one card: pairs a second, share of the card's peak, time of the host,
memory. One command, and its table under the card's name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from diffdpo.config import BaseSettings
from diffdpo.engine.console import say
from diffdpo.errors import UserError
from diffdpo.flags import flag
from scripts.benchmark.card_report import CardReport, Row
from scripts.benchmark.card_subjects import card_subjects, fitting, pairs_folder, pipeline_folder
from scripts.benchmark.contestant import ROOT
from scripts.benchmark.flops import forward_work
from scripts.benchmark.gate import Schedule
from scripts.benchmark.image_work import pair_rows
from scripts.benchmark.machine import card, card_slug, cores, describe
from scripts.benchmark.output import write_result
from scripts.benchmark.peers import recognise
from scripts.benchmark.race import Race, count_turns
from scripts.benchmark.results import Result
from scripts.benchmark.shaped import pipeline
from scripts.benchmark.shapes import BY_NAME as IMAGE_SHAPES
from scripts.benchmark.shapes import Shape, row_of, thin
from scripts.benchmark.size import Size
from scripts.benchmark.subjects import Subject, choose, has_trl
from scripts.benchmark.text_shapes import (
    TEXT_SHAPES,
    TextShape,
    make_text_data,
    make_text_model,
    text_work_of,
)
from scripts.benchmark.work import fresh_folder

WARMUP = 3  # steps
SPARE_STEPS = 2  # one is profiled, and none of these is a run's last
PAIRS = 16  # of each resolution
SMALL_SIDE = 64  # pixels
BY_NAME: dict[str, Shape | TextShape] = {
    **IMAGE_SHAPES,
    **{shape.name: shape for shape in TEXT_SHAPES},
}


@dataclass(frozen=True)
class CardSettings(BaseSettings):
    """All flags of ``python scripts/benchmark gpu``."""

    shapes: list[str] = flag(list(BY_NAME), "models to measure, by the names of the tables")
    subjects: list[str] = flag(
        [], "rows to measure, by name or pattern such as '*-lora-*'; default: all that fit"
    )
    peer_script: list[str] = field(
        default_factory=list,
        metadata={
            "help": "diffusers' Diffusion-DPO script, run as it is beside the first shape",
            "action": "extend",
        },
    )
    repetitions: int = flag(3, "times that a row's steps are counted", least=1)
    steps: int = flag(5, "optimizer steps of each that are counted", least=1)
    threads: int | None = flag(None, "CPU threads; default: all cores", least=1)
    small: bool = flag(False, "tiny networks: tries the command out, also without a card")
    work_dir: str = flag("runs/card", "folder of data, caches and logs; emptied at the start")
    output: str | None = flag(
        None,
        "where .json and .md go; default: the checkout's assets/gpu with the card's name, with"
        " --small in --work_dir",
    )


def main(settings: CardSettings) -> int:
    """Make data, measure row after row, write; returns 1 where a row failed."""
    if not (settings.small or torch.cuda.is_available()):
        raise UserError(
            "no CUDA device; --small tries the command out, and python scripts/benchmark host"
            " measures the host's share"
        )
    peers = [recognise(name) for name in settings.peer_script]
    schedule = Schedule(WARMUP, settings.steps, settings.repetitions)
    folder = fresh_folder(settings.work_dir)
    data = folder / "work"
    data.mkdir()
    shapes = [sized(row_of(name, BY_NAME), settings.small) for name in settings.shapes]
    every = card_subjects(shapes, settings.small, schedule.total + SPARE_STEPS, peers, data)
    chosen = choose(every, settings.subjects)
    shapes = [s for s in shapes if any(shape_name(subject) == s.name for subject in chosen)]
    say("work         counting the operations of each network")
    work = {shape.name: counted(shape, data) for shape in shapes}
    chosen, notes = fitting(chosen, {name: one[:2] for name, one in work.items()}, card_memory())
    if not has_trl():
        notes.append("trl is not installed; its rows are left out")
    say(*(f"note         {note}" for note in notes))
    say(f"work         {len(chosen)} rows; data and logs in {settings.work_dir}")
    make_data(shapes, chosen, data)
    threads = settings.threads or cores()
    if settings.small:
        notes.append("tiny networks (--small): the figures mean nothing")
    facts: dict[str, object] = {"repetitions": settings.repetitions, "steps": settings.steps}
    report = CardReport(describe(threads), card(), facts, [], notes)
    place = folder / "gpu" if settings.small else ROOT / "assets" / f"gpu{card_slug()}"
    output = settings.output or str(place)
    for subject, result in measure(chosen, schedule, threads, folder):
        row = Row(result, pairs_of(subject, shapes), *work[shape_name(subject)])
        report.rows.append(row)
        write(report, output)  # after every row: one that is interrupted keeps those before it
    say(report.markdown(), f"result       {output}.md and .json")
    return int(any(row.result.error for row in report.rows))


def write(report: CardReport, output: str) -> None:
    """Write the table and its numbers, whole."""
    write_result(output, json=report.as_json(), md=report.markdown())


def sized(shape: Shape | TextShape, small: bool) -> Shape | TextShape:
    """The shape, or its tiny form."""
    if not small:
        return shape
    return shape.thin() if isinstance(shape, TextShape) else thin(shape, SMALL_SIDE)


def counted(shape: Shape | TextShape, folder: Path) -> tuple[float, int, float | None]:
    """Operations of a forward pass of one picture or completion, weights, and tokens of a pair of
    completions."""
    if isinstance(shape, TextShape):
        make_text_data(shape, folder)
        return text_work_of(shape, folder)
    return (*forward_work(shape), None)


def shape_name(subject: Subject) -> str:
    """The shape that a row trains."""
    return subject.name.split("-")[0]


def pairs_of(subject: Subject, shapes: Sequence[Shape | TextShape]) -> int:
    """Pairs of a row's step."""
    return next(shape.pairs for shape in shapes if shape.name == shape_name(subject))


def card_memory() -> int | None:
    """Bytes of the card; None without one."""
    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory)


def make_data(shapes: Sequence[Shape | TextShape], subjects: list[Subject], folder: Path) -> None:
    """Language models; pairs of every resolution and, where a script of others is measured, the
    pipeline it reads."""
    for shape in shapes:
        if isinstance(shape, TextShape):
            make_text_model(shape, folder)
            continue
        pairs = pairs_folder(shape, folder)
        if not pairs.exists():
            pairs.mkdir(parents=True)
            size = Size(resolution=shape.resolution, pairs=PAIRS, captions=4)
            Dataset.from_list(pair_rows(size)).to_parquet(pairs / "train-00000.parquet")
        if any(s.program == "script" and shape_name(s) == shape.name for s in subjects):
            made = pipeline(shape, torch.device("cpu"), torch.float32)
            made.save_pretrained(pipeline_folder(folder))


def measure(
    subjects: list[Subject], schedule: Schedule, threads: int, folder: Path
) -> Iterator[tuple[Subject, Result]]:
    """Every row and its result, one after the other: each is alone on the card."""
    with tqdm(total=count_turns(subjects, schedule, first=False), unit="turn") as bar:
        for subject in subjects:
            found = Race([subject], schedule, threads, folder, bar, first=False).run()
            yield subject, found[subject.name]
