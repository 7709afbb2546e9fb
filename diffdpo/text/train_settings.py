"""The engine's flags under the names of transformers, with TRL's defaults."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from diffdpo.engine.settings import MANY, SCHEDULES, TrainSettings
from diffdpo.flags import SEEDS, flag, number

EIGHT_BIT = ["adamw_8bit", "adamw_bnb_8bit"]
OPTIMIZERS = ["adamw_torch", "adamw_torch_fused", *EIGHT_BIT, "adafactor"]


def number_of_steps(word: str) -> float | None:
    """A number of steps; transformers writes -1 for none."""
    return None if word == "-1" else number(word, int, may_be_none=True)


@dataclass(frozen=True)
class TransformersSettings(TrainSettings):
    """The settings of training, as transformers' trainers call them."""

    # Text has nothing random but the order of rows: no stored number depends on the seed.
    seed: int = flag(
        0,
        "the order of rows is a function of this number and the epoch",
        group="training",
        **SEEDS,
    )
    train_batch_size: int = flag(
        8,
        "rows per process and micro-batch",
        aliases=["--per_device_train_batch_size"],
        group="training",
        least=1,
        most=2**16,
    )
    num_train_epochs: float = flag(
        3.0,
        "passes over the rows, where max_train_steps is not given",
        group="training",
        above=0,
        most=MANY,
    )
    max_train_steps: int | None = flag(
        None,
        "optimizer steps; overrides num_train_epochs",
        aliases=["--max_steps"],
        read=number_of_steps,
        group="training",
        least=1,
        most=1000 * MANY,
    )
    learning_rate: float = flag(1e-6, "peak rate; 0 is a dry run", group="optimizer", least=0)
    lr_scheduler: str = flag(
        "linear",
        "a schedule of diffusers.optimization",
        aliases=["--lr_scheduler_type"],
        group="optimizer",
        choices=SCHEDULES,
    )
    lr_warmup_steps: int = flag(
        0, "steps of linear warm-up", aliases=["--warmup_steps"], group="optimizer", least=0
    )
    warmup_ratio: float = flag(
        0.0,
        "the same as a share of all steps, where they are 0",
        group="optimizer",
        least=0,
        most=1,
    )
    optim: str = flag(
        "adamw_torch",
        "transformers' name of the optimizer; the others are those of --use_8bit_adam and"
        " --use_adafactor",
        group="optimizer",
        choices=OPTIMIZERS,
    )
    adam_weight_decay: float = flag(
        0.0, "decoupled weight decay", aliases=["--weight_decay"], group="optimizer", least=0
    )
    checkpointing_steps: int = flag(
        500,
        "save a checkpoint every so many steps",
        aliases=["--save_steps"],
        group="logging",
        least=1,
    )
    checkpoints_total_limit: int | None = flag(
        None, "keep only the newest N", aliases=["--save_total_limit"], group="logging", least=1
    )
    allow_tf32: bool = flag(
        False,
        "TF32 matrix products on Ampere and later GPUs",
        aliases=["--tf32"],
        group="training",
        changes="scores",
    )
    bf16: bool = flag(False, "the same as --mixed_precision bf16", group="training")
    fp16: bool = flag(False, "the same as --mixed_precision fp16", group="training")

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.bf16 and self.fp16:
            lines.append("--bf16 and --fp16 exclude each other; keep one")
        if self.warmup_ratio and self.lr_warmup_steps:
            lines.append("--warmup_ratio and --warmup_steps exclude each other; keep one")
        if self.eight_bit and self.adafactor:
            lines.append(f"--optim {self.optim}: another optimizer is asked for as well; keep one")
        return lines

    @property
    def eight_bit(self) -> bool:
        """Whether AdamW keeps its state in 8 bits, whichever flag says so."""
        return self.use_8bit_adam or self.optim in EIGHT_BIT

    @property
    def adafactor(self) -> bool:
        """Whether Adafactor is asked for, whichever flag says so."""
        return self.use_adafactor or self.optim == "adafactor"

    def warmup_steps(self, total: int) -> int:
        """Steps of linear warm-up in a run of ``total``."""
        return self.lr_warmup_steps or ceil(self.warmup_ratio * total)

    @property
    def precision(self) -> str | None:
        """The precision, whichever of its three flags gives it."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else self.mixed_precision
