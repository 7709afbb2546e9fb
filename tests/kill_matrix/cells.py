"""What is killed: kinds of runs on small models, each with moments and signals in chains."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
KILL, TERM, INT = "KILL", "TERM", "INT"
Chain = list[tuple[str, str]]  # moments, with the signal that falls then
# Ten steps, a checkpoint every three, two kept, and a rate that depends on the step.
RUN = ["--max_train_steps", "10", "--checkpointing_steps", "3", "--checkpoints_total_limit", "2"]
RUN += ["--lr_scheduler", "cosine", "--lr_warmup_steps", "2", "--logging_steps", "1"]
RUN += ["--train_batch_size", "1", "--report_to", "none"]
TRAINING: list[Chain] = [
    [("start", KILL), ("steps", KILL), ("checkpoint", KILL), ("export", KILL)],
    [("load", KILL), ("steps", TERM), ("checkpoint", INT)],
]
IN_TWO: list[Chain] = [[("load", KILL), ("checkpoint", KILL), ("steps", TERM), ("export", KILL)]]
TABLES: list[Chain] = [[("start", INT), ("table", KILL), ("table", TERM), ("table", KILL)]]


@dataclass(frozen=True)
class Cell:
    """A kind of run: a command with its flags, in so many processes, and its chains of kills.

    ``is_forked``: of a server that has imported the libraries, where none is killed at that.
    """

    name: str
    command: str
    flags: list[str]
    chains: list[Chain]
    processes: int = 1
    is_forked: bool = False

    def words(self, folder: Path) -> list[str]:
        """The command line of the run whose output, or cache, is ``folder``."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]
        launcher = [*launcher, str(self.processes)] if self.processes > 1 else []
        place = ["--precompute_dir", str(folder)]
        if self.command != "precompute":
            place = ["--output_dir", str(folder), "--resume_from_checkpoint", "latest"]
        script = str(ROOT / "scripts" / f"{self.command}.py")
        return [sys.executable, *launcher, script, *self.flags, *place]


def cells(material: Path, short: bool) -> list[Cell]:
    """The cells; ``short``: one of them, with the moments that are hardest."""
    text = ["--model_name_or_path", str(material / "lm")]
    text += ["--dataset_name", str(material / "pairs.jsonl"), "--learning_rate", "1e-3"]
    lora = ["--use_peft", "--lora_r", "2"]
    if short:
        chain = [("checkpoint", KILL), ("steps", TERM), ("export", KILL)]
        return [Cell("text LoRA", "train_text_dpo", [*text, *lora, *RUN], [chain], 1, True)]
    image = ["--dataset_name", str(material / "images"), "--learning_rate", "1e-3"]
    sd = [*image, "--pretrained_model_name_or_path", str(material / "sd")]
    xl = [*image, "--pretrained_model_name_or_path", str(material / "sdxl")]
    draws = ["--reference_draws", "2", "--train_batch_size", "2"]
    kinds = [
        ("text LoRA", "train_text_dpo", [*text, *lora, *RUN]),
        ("text full", "train_text_dpo", [*text, *RUN]),
        ("image LoRA", "train_diffusion_dpo", [*sd, "--rank", "2", *RUN]),
        ("image full", "train_diffusion_dpo", [*xl, *RUN]),
    ]
    alone = [Cell(*kind, TRAINING) for kind in kinds]
    in_two = [Cell(*kind, IN_TWO, processes=2) for kind in kinds]
    tables = [
        Cell("precompute image", "precompute", [*sd, *draws], TABLES),
        Cell("precompute text", "precompute", [*text, "--train_batch_size", "2"], TABLES),
        Cell("precompute image", "precompute", [*sd, *draws], TABLES, processes=2),
    ]
    return [*alone, *in_two, *tables]


def make_material(folder: Path, short: bool) -> None:
    """Small models and data for the cells."""
    from tests import factory  # here: they load libraries for seconds
    from tests.text import factory as texts

    texts.save_model(folder / "lm")
    texts.write_jsonl(folder / "pairs.jsonl", texts.pair_rows(64))
    if not short:
        factory.make_pairs(folder / "images", 64)
        factory.make_pipeline(folder / "sd")
        factory.make_pipeline(folder / "sdxl", "StableDiffusionXLPipeline")


def environment() -> dict[str, str]:
    """One thread a process, on the CPU, without the network."""
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **fixed, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
