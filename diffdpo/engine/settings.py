"""The settings of training that images and text share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from diffdpo.config import BaseSettings
from diffdpo.engine.idle import idle_in_training
from diffdpo.flags import SEEDS, flag

SCHEDULES = ["linear", "cosine", "cosine_with_restarts", "polynomial"]
SCHEDULES += ["constant", "constant_with_warmup"]
PRECISIONS = ["no", "bf16", "fp16"]
# Beyond any training that ends; a larger number is a slip of the hand.
MANY = 10**6
TRACKERS = ["tensorboard", "wandb", "comet_ml", "all", "none"]
# Of held-out rows; with "eval_" before them as well, as transformers has them.
FIGURES = ["loss", "rewards/accuracies"]
BEST_BY = [*FIGURES, *(f"eval_{name}" for name in FIGURES)]


@dataclass(frozen=True)
class TrainSettings(BaseSettings):
    """The settings of training that images and text share."""

    output_dir: str = flag(
        "runs/train", "folder of this run: metrics, checkpoints, result", group="training"
    )
    seed: int = flag(
        0,
        "all randomness is a function of this number, the pair and the visit",
        group="training",
        changes="draws",
        **SEEDS,
    )
    train_batch_size: int = flag(
        4, "pairs per process and micro-batch", group="training", least=1, most=2**16
    )
    gradient_accumulation_steps: int = flag(
        1, "micro-batches per optimizer step", group="training", least=1, most=2**16
    )
    num_train_epochs: float = flag(
        1.0,
        "passes over the pairs, where max_train_steps is not given",
        group="training",
        above=0,
        most=MANY,
    )
    max_train_steps: int | None = flag(
        None,
        "optimizer steps; overrides num_train_epochs",
        group="training",
        least=1,
        most=1000 * MANY,
    )
    max_train_samples: int | None = flag(
        None, "use only this many pairs, picked by the seed", group="data", least=1
    )

    loss_type: str = flag("sigmoid", "a row of diffdpo.losses.LOSSES", group="loss")
    label_smoothing: float = flag(
        0.0,
        "share of labels believed flipped, at most half; 0: the loss's own default",
        group="loss",
        least=0,
        most=0.5,
    )
    dpop_lambda: float = flag(
        50.0, "dpop: charge for a chosen item made less likely", group="loss", least=0
    )
    linear_eta: float = flag(
        0.01, "linear: least pull, and one minus the largest", group="loss", least=0, below=0.5
    )
    desirable_weight: float = flag(1.0, "kto: weight of desirable items", group="loss", least=0)
    undesirable_weight: float = flag(1.0, "kto: weight of undesirable items", group="loss", least=0)

    learning_rate: float = flag(1e-5, "peak rate; 0 is a dry run", group="optimizer", least=0)
    scale_lr: bool = flag(
        False, "multiply the rate by processes x accumulation x batch size", group="optimizer"
    )
    lr_scheduler: str = flag(
        "constant", "a schedule of diffusers.optimization", group="optimizer", choices=SCHEDULES
    )
    lr_warmup_steps: int = flag(
        0, "steps of linear warm-up, for schedules that have one", group="optimizer", least=0
    )
    lr_num_cycles: int = flag(1, "hard resets of cosine_with_restarts", group="optimizer", least=1)
    lr_power: float = flag(1.0, "power of the polynomial schedule", group="optimizer", above=0)
    use_8bit_adam: bool = flag(
        False, "AdamW with 8-bit state, where bitsandbytes is installed", group="optimizer"
    )
    use_paged_adam: bool = flag(
        False,
        "keep AdamW's state in memory that moves between GPU and host as needed, by bitsandbytes;"
        " with --use_8bit_adam in 8 bits",
        group="optimizer",
    )
    use_adafactor: bool = flag(False, "Adafactor in place of AdamW: less memory", group="optimizer")
    adam_beta1: float = flag(0.9, "AdamW's first decay", group="optimizer", least=0, below=1)
    adam_beta2: float = flag(0.999, "AdamW's second decay", group="optimizer", least=0, below=1)
    adam_weight_decay: float = flag(1e-2, "decoupled weight decay", group="optimizer", least=0)
    adam_epsilon: float = flag(1e-8, "AdamW's epsilon", group="optimizer", above=0)
    ema_decay: float | None = flag(
        None,
        "export a moving average of the weights with this decay, 0.999 for example; left out: the"
        " weights themselves",
        group="optimizer",
        least=0,
        below=1,
    )
    max_grad_norm: float = flag(
        1.0, "clip the gradient to this norm", group="optimizer", above=0, most=math.inf
    )

    precompute_dir: str = flag(
        "~/.cache/diffdpo",
        "where what is computed once is kept for later runs",
        aliases=["--reference_cache_dir"],
        group="caching",
    )
    mixed_precision: str | None = flag(
        None,
        "no, bf16 or fp16; left out: what accelerate is set to",
        group="training",
        choices=PRECISIONS,
        changes="scores",
    )
    gradient_checkpointing: bool = flag(
        False, "recompute activations: less memory, slower", group="training"
    )
    torch_compile: bool = flag(
        False, "compile the network: a slow first step, faster ones after it", group="training"
    )
    allow_tf32: bool = flag(
        False, "TF32 matrix products on Ampere and later GPUs", group="training", changes="scores"
    )
    deterministic: bool = flag(
        False,
        "only algorithms that repeat bit for bit: slower on a GPU",
        group="training",
        changes="scores",
    )
    max_bad_steps: int = flag(
        5,
        "stop after so many steps in a row whose loss or gradient is not finite",
        group="training",
        least=1,
    )
    dataloader_num_workers: int | None = flag(
        None,
        "processes that read data ahead of time; left out: 2 for each GPU, 0 on a CPU",
        group="training",
        least=0,
        most=1024,
    )

    checkpointing_steps: int = flag(
        500, "save a checkpoint every so many steps", group="logging", least=1
    )
    checkpoints_total_limit: int | None = flag(
        None, "keep only the newest N checkpoints", group="logging", least=1
    )
    resume_from_checkpoint: str | None = flag(
        None, "a checkpoint's folder, or 'latest'", group="logging"
    )

    logging_steps: int = flag(
        10, "write out the collected metrics every so many steps", group="logging", least=1
    )
    keep_best: bool = flag(
        False,
        "the result is the step with the best held-out figure, not the last one",
        aliases=["--load_best_model_at_end"],
        group="evaluation",
    )
    metric_for_best_model: str = flag(
        "loss", "the held-out figure that --keep_best goes by", group="evaluation", choices=BEST_BY
    )
    early_stopping_patience: int | None = flag(
        None,
        "with --keep_best: end after so many measurements in a row without a better one",
        group="evaluation",
        least=1,
    )
    report_to: str = flag(
        "tensorboard",
        "tensorboard, wandb, comet_ml, all or none",
        group="logging",
        choices=TRACKERS,
    )
    tracker_name: str = flag(
        "diffdpo", "project in the tracker", aliases=["--tracker_project_name"], group="logging"
    )
    logging_dir: str = flag("logs", "the tracker's folder inside output_dir", group="logging")
    push_to_hub: bool = flag(False, "upload the result at the end", group="logging")
    hub_token: str | None = flag(
        None, "token for the upload; never written to config.yaml", group="logging"
    )
    hub_model_id: str | None = flag(
        None, "repository to upload to; default: the folder's name", group="logging"
    )
    hub_revision: str | None = flag(
        None,
        "branch of the repository, made where it is not there; default: its main one",
        aliases=["--hub_model_revision"],
        group="logging",
    )
    hub_private_repo: bool = flag(
        False, "only you may read a repository that the upload makes", group="logging"
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.use_8bit_adam and self.use_adafactor:
            lines.append("--use_8bit_adam and --use_adafactor exclude each other; keep one")
        if self.use_paged_adam and self.use_adafactor:
            lines.append("--use_paged_adam and --use_adafactor exclude each other; keep one")
        if self.early_stopping_patience is not None and not self.keep_best:
            lines.append("--early_stopping_patience belongs to --keep_best; add that")
        return lines

    def idle(self) -> dict[str, str]:
        return super().idle() | idle_in_training(self)

    def problems_in_shares(self) -> list[str]:
        """A line for each setting that does not go with weights in shares (FSDP2)."""
        names = ("torch_compile", "use_8bit_adam", "use_paged_adam", "use_adafactor")
        lines = [f"--{name}" for name in names if getattr(self, name)]
        lines += ["--optim rmsprop"] if self.rmsprop else []
        lines += ["--mixed_precision fp16"] if self.mixed_precision == "fp16" else []
        return [f"{line}: not with weights in shares (FSDP2); leave it out" for line in lines]

    def warmup_steps(self, total: int) -> int:
        """Steps of linear warm-up in a run of ``total``."""
        return self.lr_warmup_steps

    def workers_on(self, device: str) -> int:
        """The number of processes that read data for one of this kind of device."""
        # On a CPU they would take the cores that training computes on.
        own = 0 if device == "cpu" else 2
        return own if self.dataloader_num_workers is None else self.dataloader_num_workers

    @property
    def rmsprop(self) -> bool:
        """Whether RMSprop takes the place of AdamW."""
        return False

    @property
    def schedule_options(self) -> dict[str, Any]:
        """What the schedule is told by transformers' names for it."""
        return {}

    @property
    def drift_rule(self) -> tuple[str, float]:
        """What a run does at winner drift, and from which share of the reference's error on."""
        return "warn", 0.05

    @property
    def precision(self) -> str | None:
        """The requested precision; None leaves the choice to accelerate."""
        return self.mixed_precision

    @classmethod
    def free_on_resume(cls) -> set[str]:
        """The settings that a resumed run may change.

        They do not touch the numbers of a step, only how many steps there will be. Where the
        schedule spans the whole run, another length moves the rates as well, and the run says so.
        """
        return FREE_ON_RESUME


# Batch size and accumulation are among them: what must stay the same is their product, the
# effective batch, which a checkpoint records on its own.
FREE_ON_RESUME = {
    "output_dir", "resume_from_checkpoint", "train_batch_size", "gradient_accumulation_steps",
    "max_train_steps", "num_train_epochs", "checkpointing_steps", "checkpoints_total_limit",
    "logging_steps", "report_to", "tracker_name", "logging_dir", "dataloader_num_workers",
    "push_to_hub", "hub_token", "hub_model_id", "hub_revision", "hub_private_repo",
    "gradient_checkpointing", "precompute_dir", "torch_compile", "max_bad_steps", "keep_best",
    "metric_for_best_model", "early_stopping_patience",
}  # fmt: skip
