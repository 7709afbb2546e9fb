"""The rows that are measured on a card: shapes, LoRA and in full, with the reference live and
stored; beside them diffusers' script, and TRL's trainer beside language models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.benchmark.card import SPARE, work_of
from scripts.benchmark.peers import Peer
from scripts.benchmark.shapes import Shape
from scripts.benchmark.subjects import FULL_RATE, LORA_RATE, PEER_FLAGS, SCORES, Subject
from scripts.benchmark.text_shapes import TextShape, text_rows

KINDS = ("lora", "full")
STORED = {"live": ("--cache_latents",), "stored": ("--cache_latents", *SCORES)}
UNCACHED = "uncached"  # everything in the step, as a peer's
BESIDE = "sd15"  # the shape that the peers' scripts train
GIB = 2**30


def card_subjects(
    shapes: Sequence[Shape | TextShape],
    small: bool,
    steps: int,
    peers: Sequence[Peer],
    folder: Path,
) -> list[Subject]:
    """All rows; each is a group of its own, because a card holds one at a time."""
    subjects = []
    for shape in shapes:
        if isinstance(shape, TextShape):
            subjects += text_rows(shape, small, steps, folder)
            continue
        with_peer = bool(peers) and shape.name == BESIDE
        variants = STORED | ({UNCACHED: ()} if with_peer else {})
        for kind in KINDS:
            for variant, more in variants.items():
                name = f"{shape.name}-{kind}-{variant}"
                words = (*common(shape, steps, small, folder), *kind_flags(shape, kind), *more)
                target = f"{shape.name}{'-small' if small else ''}"
                cache = name if variant in STORED else None
                subjects.append(Subject(name, name, "card", target, words, cache))
        if with_peer:
            subjects += [beside(peer, shape, steps, small, folder) for peer in peers
                         if peer.kind == "diffusers"]  # fmt: skip
    return subjects


def common(shape: Shape, steps: int, small: bool, folder: Path) -> tuple[str, ...]:
    """Flags of all rows of a shape."""
    return (
        *("--dataset_name", str(pairs_folder(shape, folder))),
        *("--resolution", str(shape.resolution), "--train_batch_size", str(shape.pairs)),
        *("--seed", "0", "--max_train_steps", str(steps)),
        *("--mixed_precision", "no" if small else "bf16"),
    )


def kind_flags(shape: Shape, kind: str) -> tuple[str, ...]:
    """LoRA or in full; the larger networks in full with gradient checkpointing."""
    again = ("--gradient_checkpointing",)
    if kind == "lora":
        rate = ("--rank", "16", "--learning_rate", LORA_RATE)
        return (*rate, *(again if shape.lora_checkpointing else ()))
    return ("--learning_rate", FULL_RATE, *(again if shape.name != BESIDE else ()))


def beside(peer: Peer, shape: Shape, steps: int, small: bool, folder: Path) -> Subject:
    """Diffusers' script on the same pipeline, which is read from a folder."""
    words: tuple[str, ...] = ("--pretrained_model_name_or_path", str(pipeline_folder(folder)))
    words += (*common(shape, steps, small, folder), *PEER_FLAGS[peer.kind], "--rank", "16")
    name = f"{shape.name}-lora-{peer.kind}"
    return Subject(name, name, "script", str(peer.path), words)


def pairs_folder(shape: Shape, folder: Path) -> Path:
    """The pairs of a resolution."""
    return folder / f"pairs-{shape.resolution}"


def pipeline_folder(folder: Path) -> Path:
    """The pipeline that peers read."""
    return folder / "pipeline"


def fitting(
    subjects: list[Subject], work: Mapping[str, tuple[float, int]], memory: int | None
) -> tuple[list[Subject], list[str]]:
    """Those whose weights and states fit a card of so many bytes, and a line for each other."""
    kept, notes = [], []
    for subject in subjects:
        shape, kind, variant = subject.name.split("-")
        held = work_of(kind, variant, *work[shape]).held
        if memory is None or held + SPARE <= memory:
            kept.append(subject)
        else:
            notes.append(
                f"{subject.name}: left out; weights and states are {held / GIB:.0f} GiB, the card"
                f" has {memory / GIB:.0f}"
            )
    return kept, notes
