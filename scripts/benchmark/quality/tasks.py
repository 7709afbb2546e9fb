"""ADD A ROW: the tasks of the race to quality, their pairs, and the programs that take part.

Of a program's flags the settings that all have in common come first; what only one knows is its
own. Every program of a task gets the same pairs, the same base model and the same grid of rates.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from PIL import Image

from diffdpo.data.bundled import bundled
from diffdpo.data.source import open_dataset
from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError
from diffdpo.image.bundled import FLOW_MODEL, MODEL, PAIRS
from scripts.benchmark.peers import Peer
from scripts.benchmark.subjects import Subject

LONG = 1_000_000  # steps: the clock ends a run
BLENDED = 0.2  # of a subtle pair's rejected picture that the other artist drew
FLIPPED = 0.2  # of the labels
FIRST, SECOND = "jpg_0", "jpg_1"
Row = dict[str, Any]


def as_they_are(row: Row, number: int) -> Row:
    """The bundled pairs."""
    return row


def subtle(row: Row, number: int) -> Row:
    """The rejected picture is the chosen one with a fifth of the rejected one laid over it."""
    sides = {name: Image.open(io.BytesIO(row[name])).convert("RGB") for name in (FIRST, SECOND)}
    won, lost = (FIRST, SECOND) if row["label_0"] == 1 else (SECOND, FIRST)
    buffer = io.BytesIO()
    Image.blend(sides[won], sides[lost], BLENDED).save(buffer, "PNG")
    return row | {lost: buffer.getvalue()}


def flipped(share: float, seed: int = 0) -> Callable[[Row, int], Row]:
    """This share of the labels is turned round, by coins of the rows' own: of one seed, those of a
    smaller share are among those of a larger one."""

    def made(row: Row, number: int) -> Row:
        if generator(seed, Purpose.LABEL_NOISE, number).random() >= share:
            return row
        return row | {"label_0": row["label_1"], "label_1": row["label_0"]}

    return made


@dataclass(frozen=True)
class Task:
    """A row: what is trained on what, and who takes part.

    ``ours`` are variants of our own command with their flags, ``peers`` the kinds of other scripts
    with theirs. ``made`` makes the task's row of each bundled pair.
    """

    name: str
    what: str
    model: str
    rates: tuple[str, ...]
    beta: str
    ours: Mapping[str, tuple[str, ...]]
    peers: Mapping[str, tuple[str, ...]]
    made: Callable[[Row, int], Row] = as_they_are
    text_length: int | None = None  # tokens, where it is not the model's own

    @property
    def text_flags(self) -> tuple[str, ...]:
        """The flag of our command that says how long its texts are, where they have another length
        than the model's own."""
        return ("--max_sequence_length", str(self.text_length)) if self.text_length else ()

    def names(self, peers: Sequence[Peer]) -> list[str]:
        """Who takes part: our variants, and the scripts that are there."""
        return [*self.ours, *(peer.kind for peer in peers if peer.kind in self.peers)]


EMPTY = ("--proportion_empty_prompts", "0.1")
# diffusers' script empties no prompt, and its LoRA has the layers that ours has.
LORA = ("--rank", "8", "--proportion_empty_prompts", "0")
LATENTS = ("--cache_latents",)
DIFFUSERS = {"diffusers": ("--dataset_split_name", "train", "--rank", "8")}
# By whose script beta multiplies the error and not its half: told half as much, it means the same.
WITHOUT_HALF = ("diffusers",)
# Where the gradient says most of what is preferred: timesteps of the noisiest three deciles.
NOISIEST = ("--timestep_range", "0.7", "1")
OURS = {
    "ours": LORA,
    "ours-latents": (*LORA, *LATENTS),
    "ours-noisiest": (*LORA, *NOISIEST),
    "ours-full": EMPTY,
}
# Why a script that is known takes part in none.
OUTSIDE = {
    "salesforce": "it trains networks that predict noise alone, and the bundled ones predict"
    " velocities"
}
TASKS = {
    task.name: task
    for task in (
        Task(
            "lora",
            "LoRA of rank 8 at published rates",
            MODEL,
            ("1e-5", "5e-5", "2e-4"),
            "1000",
            {name: OURS[name] for name in ("ours", "ours-latents", "ours-noisiest")},
            DIFFUSERS,
        ),
        Task(
            "subtle",
            "rejected pictures that are a fifth the other artist's",
            MODEL,
            ("5e-5", "2e-4", "8e-4"),
            "1000",
            OURS,
            DIFFUSERS,
            subtle,
        ),
        Task(
            "flipped",
            "a fifth of the labels flipped",
            MODEL,
            ("5e-5", "2e-4", "8e-4"),
            "1000",
            OURS,
            DIFFUSERS,
            flipped(FLIPPED),
        ),
        Task(
            "flow",
            "all weights of the flow model, which the scripts do not know",
            FLOW_MODEL,
            ("3e-5", "1e-4", "3e-4"),
            "200",
            {
                "ours": EMPTY,
                "ours-latents": (*EMPTY, *LATENTS),
                "ours-noisiest": (*EMPTY, *NOISIEST),
            },
            {},
            text_length=8,
        ),
    )
}


def chosen_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, all where there are none. Raises UserError for one not known."""
    if unknown := [name for name in names if name not in TASKS]:
        raise UserError(f"--tasks {unknown[0]}: no such task; known: {', '.join(TASKS)}")
    return [TASKS[name] for name in names or TASKS]


def training_rows(made: Callable[[Row, int], Row]) -> Dataset:
    """The rows that are made of the bundled training pairs; ties are left out."""
    rows = open_dataset(bundled(PAIRS), "train")
    kept = [row for row in rows if row["label_0"] in (0, 1)]
    return Dataset.from_list([made(row, number) for number, row in enumerate(kept)])


def make_pairs(task: Task, folder: Path) -> Path:
    """The task's training pairs in a folder, which every program reads."""
    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.tmp")
        draft.mkdir(parents=True, exist_ok=True)
        training_rows(task.made).to_parquet(draft / "train-00000.parquet")
        draft.rename(folder)
    return folder


def make_model(task: Task, folder: Path) -> Path:
    """The task's base model in float32 in a folder, which every program reads."""
    import torch
    from diffusers import DiffusionPipeline

    if not folder.exists():
        draft = folder.with_name(f"{folder.name}.tmp")
        pipeline = DiffusionPipeline.from_pretrained(bundled(task.model), dtype=torch.float32)
        pipeline.save_pretrained(draft)
        draft.rename(folder)
    return folder


def common_flags(
    task: Task, model: str | Path, pairs: str | Path, rate: str, seed: int, steps: int = LONG
) -> tuple[str, ...]:
    """Flags that all programs know."""
    values = {
        "pretrained_model_name_or_path": model,
        "dataset_name": pairs,
        "resolution": 64,
        "train_batch_size": 16,
        "learning_rate": rate,
        "lr_scheduler": "constant",
        "lr_warmup_steps": 0,
        "beta_dpo": task.beta,
        "seed": seed,
        "max_train_steps": steps,
        "checkpointing_steps": LONG,
        "mixed_precision": "no",
    }
    words = [word for name, value in values.items() for word in (f"--{name}", str(value))]
    return (*words, "--no_hflip")


def entrant(task: Task, name: str, peers: Sequence[Peer], flags: Sequence[str]) -> Subject:
    """A program of a task under these common flags."""
    if name in task.ours:
        words = (*flags, *task.text_flags, *task.ours[name])
        stored = name if "--cache_latents" in words else None
        return Subject(name, task.name, "command", "train_diffusion_dpo", words, stored)
    peer = next(peer for peer in peers if peer.kind == name)
    beta = float(task.beta) / 2 if name in WITHOUT_HALF else float(task.beta)
    words = (*flags, "--beta_dpo", f"{beta:g}", *task.peers[name])  # the last one counts
    return Subject(name, task.name, "script", str(peer.path), words)


def turn_order(names: Sequence[str], seed: int) -> list[str]:
    """Who goes first under a seed: forwards and backwards in turn, so that a slow hour of the
    machine falls on all."""
    return list(names) if seed % 2 == 0 else list(reversed(names))
