"""ADD A ROW: the programs that are measured. A subject is one program with its flags; the subjects
of a group take turns.

Names are ``kind-precision-variant``: lora, full or text; fp32 or bf16; for images uncached, latents
(images and prompts encoded beforehand), scores (the reference's scores as well) and compiled (the
same under torch.compile); for text live, stored (the reference's scores) and unshared (a prompt is
computed for each completion).
"""

from __future__ import annotations

import fnmatch
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from diffdpo.errors import UserError
from scripts.benchmark.peers import Peer
from scripts.benchmark.size import Work

PRECISIONS = {"fp32": "no", "bf16": "bf16"}
BATCH = 4  # pairs
REFERENCE_DRAWS = 2
SCORES = ("--reference_draws", str(REFERENCE_DRAWS))
IMAGE_VARIANTS = {
    "uncached": (),
    "latents": ("--cache_latents",),
    "scores": ("--cache_latents", *SCORES),
    "compiled": ("--cache_latents", *SCORES, "--torch_compile"),
}
TEXT_VARIANTS = {
    "live": (),
    "stored": ("--precompute_ref_log_probs",),
    "unshared": ("--share_prefix", "false"),
    "packed": ("--padding_free", "true"),
}
# FlexAttention, which has no gradient on a CPU.
CARD_VARIANTS = TEXT_VARIANTS | {"flexible": ("--attn_implementation", "flex_attention")}
BUILDS = {
    "latents",
    "scores",
    "compiled",
    "stored",
}  # variants that fill a cache before their first step
LORA_RATE, FULL_RATE, TEXT_RATE = "5e-4", "1e-5", "1e-5"


@dataclass(frozen=True)
class Subject:
    """A program to measure, its flags, and the group it takes turns in."""

    name: str
    group: str
    program: str  # a row of scripts.benchmark.programs.PROGRAMS
    target: str  # our command, or a script's path
    flags: tuple[str, ...]
    cache: str | None = None  # its own folder of what is computed beforehand

    @property
    def aside(self) -> str:
        """What is measured beside the step: a key of ``scripts.benchmark.worker.ASIDES``."""
        return {"command": "bare", "card": "gaps"}.get(self.program, "")

    @property
    def kind(self) -> str:
        """lora, full or text."""
        return self.name.split("-")[0]


def image_subjects(work: Work, steps: int) -> list[Subject]:
    """Our image trainer: LoRA and full, both precisions, every variant."""
    subjects = []
    for kind, options in IMAGE_KINDS.items():
        for precision in PRECISIONS:
            for variant, flags in IMAGE_VARIANTS.items():
                words = (*image_flags(work, precision, steps), *options, *flags)
                name = f"{kind}-{precision}-{variant}"
                subjects.append(
                    Subject(
                        name, kind, "command", "train_diffusion_dpo", words, cache_of(name, variant)
                    )
                )
    return subjects


# The settings that the older scripts are run with, see PEER_FLAGS; their prompt dropout differs.
IMAGE_KINDS = {
    "lora": ("--rank", "4", "--learning_rate", LORA_RATE, "--proportion_empty_prompts", "0"),
    "full": ("--learning_rate", FULL_RATE),
}
PEER_FLAGS = {
    "diffusers": (
        "--dataset_split_name",
        "train",
        "--rank",
        "4",
        "--learning_rate",
        LORA_RATE,
        "--beta_dpo",
        "2500",
    ),
    "salesforce": (
        "--caption_column",
        "caption",
        "--learning_rate",
        FULL_RATE,
        "--beta_dpo",
        "5000",
        "--lr_scheduler",
        "constant",
        "--lr_warmup_steps",
        "0",
    ),
}
PEER_KINDS = {"diffusers": "lora", "salesforce": "full"}


def image_flags(work: Work, precision: str, steps: int) -> tuple[str, ...]:
    """Flags that our trainer and the older scripts have in common."""
    return (
        "--pretrained_model_name_or_path",
        str(work.pipeline),
        "--dataset_name",
        str(work.pairs),
        "--resolution",
        str(work.size.resolution),
        "--train_batch_size",
        str(BATCH),
        "--seed",
        "0",
        "--max_train_steps",
        str(steps),
        "--mixed_precision",
        PRECISIONS[precision],
    )


def cache_of(name: str, variant: str) -> str | None:
    """A folder for each subject that stores something."""
    return name if variant in BUILDS else None


def peer_subjects(work: Work, steps: int, peers: Sequence[Peer]) -> list[Subject]:
    """Older scripts, each in the group of our rows of its kind."""
    return [
        Subject(
            f"{PEER_KINDS[peer.kind]}-{precision}-{peer.kind}",
            PEER_KINDS[peer.kind],
            "script",
            str(peer.path),
            (*image_flags(work, precision, steps), *PEER_FLAGS[peer.kind]),
        )
        for peer in peers
        for precision in PRECISIONS
    ]


def text_subjects(work: Work, steps: int) -> list[Subject]:
    """Our text trainer and, where it is installed, TRL's; a group a precision, for they need much
    memory."""
    common = (
        "--model_name_or_path",
        str(work.model),
        "--dataset_name",
        str(work.rows),
        "--max_steps",
        str(steps),
        "--per_device_train_batch_size",
        str(BATCH),
        "--max_length",
        str(work.size.max_length),
        "--seed",
        "0",
        "--learning_rate",
        TEXT_RATE,
        "--lr_scheduler_type",
        "constant",
        "--report_to",
        "none",
    )
    subjects = []
    for precision, mixed in PRECISIONS.items():
        group, flags = f"text-{precision}", (*common, "--mixed_precision", mixed)
        for variant, more in TEXT_VARIANTS.items():
            name = f"{group}-{variant}"
            words = (*flags, *more)
            subjects.append(
                Subject(name, group, "command", "train_text_dpo", words, cache_of(name, variant))
            )
        if has_trl():
            subjects.append(Subject(f"{group}-trl", group, "trl", "DPOTrainer", flags))
    return subjects


def has_trl() -> bool:
    """Whether TRL can be measured here."""
    return importlib.util.find_spec("trl") is not None


def has_liger() -> bool:
    """Whether TRL can be measured with Liger's kernels, which are written in Triton."""
    return all(importlib.util.find_spec(name) for name in ("liger_kernel", "triton"))


def all_subjects(work: Work, steps: int, peers: Sequence[Peer]) -> list[Subject]:
    """Every row, sorted by group."""
    subjects = [
        *image_subjects(work, steps),
        *peer_subjects(work, steps, peers),
        *text_subjects(work, steps),
    ]
    groups = list(dict.fromkeys(subject.group for subject in subjects))
    return sorted(subjects, key=lambda subject: groups.index(subject.group))


def choose(subjects: list[Subject], patterns: list[str]) -> list[Subject]:
    """Those whose names match. Raises UserError for a pattern that matches none."""
    names = [subject.name for subject in subjects]
    if unmatched := [pattern for pattern in patterns if not fnmatch.filter(names, pattern)]:
        raise UserError(f"--subjects {unmatched[0]}: no such row; known: {', '.join(names)}")
    return [
        s
        for s in subjects
        if not patterns or any(fnmatch.fnmatchcase(s.name, pattern) for pattern in patterns)
    ]


def with_folders(subject: Subject, folder: Path, run: str) -> Subject:
    """The subject with the flags of its own run folder and cache folder."""
    folders = ["--output_dir", str(folder / "runs" / run)]
    if subject.cache:
        folders += ["--precompute_dir", str(folder / "caches" / subject.cache)]
    return replace(subject, flags=(*subject.flags, *folders))
