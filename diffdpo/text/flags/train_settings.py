"""The engine's flags under the names of transformers, with TRL's defaults."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any, TypeVar

from diffdpo.engine.settings import SCHEDULES, TRACKERS, TrainSettings
from diffdpo.flags import SEEDS, flag, restated
from diffdpo.words import number

EIGHT_BIT = ["adamw_8bit", "adamw_bnb_8bit"]
# Beside those of diffusers; the two that follow a measured loss are no functions of the step.
MORE_SCHEDULES = ["inverse_sqrt", "cosine_with_min_lr", "cosine_warmup_with_min_lr"]
MORE_SCHEDULES += ["warmup_stable_decay"]
PAGED = ["paged_adamw", "paged_adamw_32bit", "paged_adamw_8bit"]
OPTIMIZERS = ["adamw_torch", "adamw_torch_fused", *EIGHT_BIT, *PAGED, "adafactor", "rmsprop"]
# Numbers of steps that may be shares of all of them, as in transformers.
SHARES = ("checkpointing_steps", "logging_steps", "eval_steps")

Settings = TypeVar("Settings", bound="TransformersSettings")


def number_of_steps(word: str) -> float | None:
    """A number of steps; transformers writes -1 for none."""
    return None if word == "-1" else number(word, int, may_be_none=True)


def steps_or_share(word: str) -> float | None:
    """A number of steps or, below 1, a share of all of them."""
    try:
        value = float(word)
    except ValueError:
        value = 1.0
    if value >= 1:
        return number(word.removesuffix(".0"), int, may_be_none=False)
    return value or 0


def in_steps(amount: float, total: int) -> int:
    """A number of steps as it is; a share of ``total``, rounded up as in transformers."""
    return ceil(amount * total) if amount < 1 else int(amount)


def with_whole_steps(settings: Settings, total: int) -> Settings:
    """The settings of a run of ``total`` steps, with numbers of steps in place of shares."""
    steps: dict[str, Any] = {name: in_steps(getattr(settings, name), total) for name in SHARES}
    return replace(settings, **steps)


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
    train_batch_size: int = restated(
        TrainSettings,
        "train_batch_size",
        8,
        help="rows per process and micro-batch",
        aliases=["--per_device_train_batch_size"],
    )
    num_train_epochs: float = restated(
        TrainSettings,
        "num_train_epochs",
        3.0,
        help="passes over the rows, where max_train_steps is not given",
    )
    max_train_steps: int | None = restated(
        TrainSettings, "max_train_steps", aliases=["--max_steps"], type=number_of_steps
    )
    learning_rate: float = restated(TrainSettings, "learning_rate", 1e-6)
    lr_scheduler: str = restated(
        TrainSettings,
        "lr_scheduler",
        "linear",
        help="a schedule of transformers",
        aliases=["--lr_scheduler_type"],
        choices=[*SCHEDULES, *MORE_SCHEDULES],
    )
    lr_scheduler_kwargs: dict[str, Any] | None = flag(
        None,
        "options of the schedule, by transformers' names for them",
        group="optimizer",
    )
    lr_warmup_steps: float = restated(  # type: ignore[assignment]
        TrainSettings,
        "lr_warmup_steps",
        help="steps of linear warm-up; below 1: a share of all steps",
        aliases=["--warmup_steps"],
        type=steps_or_share,
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
        " --use_adafactor, and rmsprop",
        group="optimizer",
        choices=OPTIMIZERS,
    )
    adam_weight_decay: float = restated(
        TrainSettings, "adam_weight_decay", 0.0, aliases=["--weight_decay"]
    )
    checkpointing_steps: float = restated(  # type: ignore[assignment]
        TrainSettings,
        "checkpointing_steps",
        help="save a checkpoint every so many steps; below 1: of this share of all steps",
        aliases=["--save_steps"],
        type=steps_or_share,
        bounds={"above": 0},
    )
    logging_steps: float = restated(  # type: ignore[assignment]
        TrainSettings,
        "logging_steps",
        help="write out the metrics every so many steps; below 1: of this share of all steps",
        type=steps_or_share,
        bounds={"above": 0},
    )
    checkpoints_total_limit: int | None = restated(
        TrainSettings,
        "checkpoints_total_limit",
        help="keep only the newest N",
        aliases=["--save_total_limit"],
    )
    max_train_samples: int | None = restated(
        TrainSettings, "max_train_samples", aliases=["--max_samples"]
    )
    label_smoothing: float = restated(
        TrainSettings, "label_smoothing", aliases=["--dpo_label_smoothing"]
    )
    desirable_weight: float = restated(
        TrainSettings, "desirable_weight", aliases=["--kto_chosen_weight"]
    )
    undesirable_weight: float = restated(
        TrainSettings, "undesirable_weight", aliases=["--kto_rejected_weight"]
    )
    gradient_checkpointing: bool = restated(
        TrainSettings, "gradient_checkpointing", aliases=["--activation_checkpointing"]
    )
    deterministic: bool = restated(TrainSettings, "deterministic", aliases=["--full_determinism"])
    early_stopping_patience: int | None = restated(
        TrainSettings, "early_stopping_patience", aliases=["--early_stopping_steps"]
    )
    metric_for_best_model: str = restated(
        TrainSettings,
        "metric_for_best_model",
        choices=None,
        help="the held-out figure that --keep_best goes by: loss or rewards/accuracies; with"
        " NAME/ before it, that of one held-out set",
    )
    greater_is_better: bool | None = flag(
        None,
        "whether more of metric_for_best_model is better; only for recipes that say it",
        group="evaluation",
    )
    report_to: list[str] = flag(  # type: ignore[assignment]
        ["tensorboard"],
        "one or more of tensorboard, wandb, comet_ml; or all or none",
        group="logging",
        choices=TRACKERS,
    )
    tracker_name: str = restated(
        TrainSettings, "tracker_name", aliases=["--tracker_project_name", "--project"]
    )
    allow_tf32: bool = restated(TrainSettings, "allow_tf32", aliases=["--tf32"])
    bf16: bool = flag(False, "the same as --mixed_precision bf16", group="training")
    fp16: bool = flag(False, "the same as --mixed_precision fp16", group="training")

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.bf16 and self.fp16:
            lines.append("--bf16 and --fp16 exclude each other; keep one")
        if self.warmup_ratio and self.lr_warmup_steps:
            lines.append("--warmup_ratio and --warmup_steps exclude each other; keep one")
        more = self.metric_for_best_model.endswith("accuracies")
        if self.greater_is_better not in (None, more):
            said = str(self.greater_is_better).lower()
            line = f"--greater_is_better {said} contradicts --metric_for_best_model"
            lines.append(f"{line} {self.metric_for_best_model}; leave it out")
        if len(self.report_to) > 1 and {"all", "none"} & {*self.report_to}:
            lines.append("--report_to: all and none stand alone")
        kinds = [self.eight_bit or self.paged, self.adafactor, self.rmsprop]
        if sum(kinds) > 1:
            lines.append(f"--optim {self.optim}: another optimizer is asked for as well; keep one")
        return lines

    @property
    def eight_bit(self) -> bool:
        """Whether AdamW keeps its state in 8 bits, whichever flag says so."""
        return self.use_8bit_adam or self.optim in (*EIGHT_BIT, "paged_adamw_8bit")

    @property
    def paged(self) -> bool:
        """Whether AdamW's state moves between GPU and host, whichever flag says so."""
        return self.use_paged_adam or self.optim in PAGED

    @property
    def adafactor(self) -> bool:
        """Whether Adafactor is asked for, whichever flag says so."""
        return self.use_adafactor or self.optim == "adafactor"

    @property
    def rmsprop(self) -> bool:
        """Whether RMSprop takes the place of AdamW."""
        return self.optim == "rmsprop"

    def warmup_steps(self, total: int) -> int:
        """Steps of linear warm-up in a run of ``total``."""
        return in_steps(self.lr_warmup_steps, total) or ceil(self.warmup_ratio * total)

    @property
    def schedule_options(self) -> dict[str, Any]:
        """What the schedule is told by transformers' names for it."""
        return self.lr_scheduler_kwargs or {}

    @property
    def precision(self) -> str | None:
        """The precision, whichever of its three flags gives it."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else self.mixed_precision
