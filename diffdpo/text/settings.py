"""Settings of text preference training; flag names are those of TRL's scripts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from diffdpo.config import FREE_ON_RESUME, TrainSettings, flag, one_of
from diffdpo.errors import UserError
from diffdpo.losses import LOSSES
from diffdpo.objective import Objective, make_objective

ALL_LINEAR = ["all-linear"]
# Settings that change how the numbers are computed, and the numbers in their rounding alone.
SAME_NUMBERS = {"attn_implementation", "share_prefix"}


def switch(default: bool | None, help: str) -> Any:
    """A flag that is yes where it stands alone, takes true or false, and where it is left out is
    neither."""
    return dataclasses.field(default=default, metadata={"help": help, "nargs": "?", "const": True})


@dataclass
class TextSettings(TrainSettings):
    """All flags of ``train_text_dpo.py``."""

    model_name_or_path: str | None = flag(None, "model or adapter: a folder or hub id")
    model_revision: str | None = flag(None, "revision on the hub")
    trust_remote_code: bool = flag(False, "run the code that a model on the hub brings along")
    attn_implementation: str | None = flag(
        None, "eager, sdpa or flash_attention_2; default: the model's"
    )
    cache_dir: str | None = flag(None, "where downloads are kept")
    ref_model_name_or_path: str | None = flag(
        None, "another model as reference; default: the start of training"
    )
    precompute_ref_log_probs: bool = flag(
        False, "score the rows by the reference once and store the numbers"
    )
    use_peft: bool = flag(
        False, "train a LoRA; left out: full fine-tune, or the adapter that is loaded"
    )
    lora_r: int = flag(16, "rank of the LoRA")
    lora_alpha: int = flag(32, "the LoRA is scaled by lora_alpha / lora_r")
    lora_target_modules: list[str] = flag(ALL_LINEAR, "layers that get an adapter")

    dataset_name: str | None = flag(None, "hub id, folder or file of preferences")
    dataset_config: str | None = flag(
        None, "configuration of a hub data set", aliases=["--dataset_config_name"]
    )
    dataset_train_split: str = flag("train", "split to train on")
    dataset_test_split: str = flag(
        "test", "split that is held out, where eval_strategy asks for one"
    )
    eval_dataset_name: str | None = flag(
        None, "held-out rows from elsewhere: hub id, folder or file"
    )
    max_length: int | None = flag(
        1024, "tokens of prompt and completion; longer prompts lose their beginning"
    )
    share_prefix: bool | None = switch(
        None, "compute a prompt once for both completions; default: where that pays"
    )
    group_by_length: bool = flag(
        False, "rows of like length meet in a step; left out: chance decides"
    )
    min_score_margin: float | None = flag(None, "leave out rows whose score_chosen leads by less")
    soft_label_scale: float | None = flag(
        None, "P(chosen wins) = sigmoid(this x (score_chosen - score_rejected))"
    )
    preview: int = flag(0, "print so many rows as the model will see them")

    loss_type: list[str] = flag(["sigmoid"], "rows of diffdpo.losses.LOSSES, added up")  # type: ignore[assignment]
    loss_weights: list[float] = flag([], "a weight for each loss; default: 1")
    beta: float = flag(0.1, "strength of the anchor; orpo: weight of the odds ratio")
    rpo_alpha: float | None = flag(
        None, "add the SFT loss of the chosen completions with this weight"
    )
    simpo_gamma: float = flag(0.5, "simpo: margin asked for")
    orpo_nll_on_prompt: bool = flag(
        True, "orpo: the likelihood term covers the prompt as well, as in TRL"
    )

    eval_strategy: str = flag(
        "no", "no, steps or epoch: when to measure on held-out rows; always at the end as well"
    )
    eval_steps: int = flag(500, "measure every so many steps")
    eval_batch_size: int = flag(
        8, "held-out rows at once", aliases=["--per_device_eval_batch_size"]
    )
    eval_generations: int = flag(
        4, "held-out prompts that policy and reference answer side by side"
    )
    max_new_tokens: int = flag(64, "length of these answers")

    # Text has nothing random but the order of rows: no stored number depends on the seed.
    seed: int = flag(0, "the order of rows is a function of this number and the epoch")
    # The engine's flags under the names of transformers, with TRL's defaults.
    train_batch_size: int = flag(
        8, "rows per process and micro-batch", aliases=["--per_device_train_batch_size"]
    )
    num_train_epochs: float = flag(3.0, "passes over the rows, where max_train_steps is not given")
    max_train_steps: int | None = flag(
        None, "optimizer steps; overrides num_train_epochs", aliases=["--max_steps"]
    )
    learning_rate: float = flag(1e-6, "peak rate; 0 is a dry run")
    lr_scheduler: str = flag(
        "linear", "a schedule of diffusers.optimization", aliases=["--lr_scheduler_type"]
    )
    lr_warmup_steps: int = flag(0, "steps of linear warm-up", aliases=["--warmup_steps"])
    adam_weight_decay: float = flag(0.0, "decoupled weight decay", aliases=["--weight_decay"])
    checkpointing_steps: int = flag(
        500, "save a checkpoint every so many steps", aliases=["--save_steps"]
    )
    checkpoints_total_limit: int | None = flag(
        None, "keep only the newest N", aliases=["--save_total_limit"]
    )
    allow_tf32: bool = flag(
        False, "TF32 matrix products on Ampere and later GPUs", aliases=["--tf32"], changes="scores"
    )
    bf16: bool = flag(False, "the same as --mixed_precision bf16")
    fp16: bool = flag(False, "the same as --mixed_precision fp16")

    def __post_init__(self) -> None:
        if self.max_train_steps == -1:  # in transformers: not given
            self.max_train_steps = None

    def problems(self) -> list[str]:
        found = super().problems()
        found += one_of("eval_strategy", self.eval_strategy, ["no", "steps", "epoch"])
        for name in (
            "lora_r",
            "lora_alpha",
            "max_length",
            "eval_steps",
            "eval_batch_size",
            "max_new_tokens",
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                found.append(f"--{name} must be at least 1, got {value}")
        for name in ("soft_label_scale", "rpo_alpha"):
            if (value := getattr(self, name)) is not None and not value > 0:
                found.append(f"--{name} must be positive, got {value}")
        if not self.beta > 0 or self.beta == float("inf"):
            found.append(f"--beta must be positive, got {self.beta}")
        if self.bf16 and self.fp16:
            found.append("--bf16 and --fp16 exclude each other; keep one")
        try:
            objective = text_objective(self)
        except UserError as error:
            return found + list(error.mistakes)
        if self.precompute_ref_log_probs and objective.reference_free:
            found.append(f"--precompute_ref_log_probs: loss {self.loss_type[0]} has no reference")
        if self.precompute_ref_log_probs and objective.needs_kl:
            found.append(
                "--precompute_ref_log_probs: kto scores new pairs of prompt and completion in every"
                " step"
            )
        return found

    @property
    def sharing(self) -> bool | None:
        """``share_prefix`` where the loss has pairs; single completions have nothing to share."""
        names = [name for name in self.loss_type if name in LOSSES]
        return self.share_prefix if all(LOSSES[name].paired for name in names) else False

    @classmethod
    def free_on_resume(cls) -> set[str]:
        measured = {
            "dataset_test_split",
            "eval_dataset_name",
            "eval_strategy",
            "eval_steps",
            "eval_batch_size",
        }
        measured |= {"eval_generations", "max_new_tokens"}
        return FREE_ON_RESUME | measured | {"cache_dir", "preview", *SAME_NUMBERS}

    @classmethod
    def inert(cls) -> dict[str, str]:
        cut = "the completion and the end of the prompt are kept within --max_length"
        return {
            "local_rank": "the launcher's environment says which process this is",
            "lora_dropout": (
                "dropout is off: policy and reference must be the same function before the first"
                " step"
            ),
            "disable_dropout": "dropout is always off",
            "dtype": (
                "weights that are trained are float32; frozen ones take the type of"
                " --mixed_precision"
            ),
            "torch_dtype": (
                "weights that are trained are float32; frozen ones take the type of"
                " --mixed_precision"
            ),
            "truncation_mode": cut,
            "max_prompt_length": cut,
            "max_completion_length": cut,
            "dataset_num_proc": "rows are tokenised once, in this process",
            "remove_unused_columns": "columns that no format names are not read",
            "save_strategy": "checkpoints come every --save_steps steps",
            "logging_strategy": "every step is logged",
            "logging_first_step": "every step is logged",
            "use_liger_kernel": "the output head sees the completion tokens alone as it is",
            "padding_free": "rows of like length are read together, with 5 % padding at most",
            "pad_to_multiple_of": "rows are padded to the longest that is read with them",
            "pad_token": "padding is neither attended to nor scored, so any token will do",
            "precompute_ref_batch_size": "the training batch size is used",
            "gradient_checkpointing_kwargs": "the non-reentrant form is used",
            "ddp_find_unused_parameters": "every trained weight is used in every step",
            "lora_task_type": "the model is a causal language model",
            "do_train": "training is what this command does",
            "do_eval": "--eval_strategy says when to measure",
        }


def text_objective(settings: TextSettings) -> Objective:
    """The weighted sum of losses that the settings ask for.

    Raises UserError for unknown losses, weights that do not match, and sums of losses of different
    kinds.
    """
    names, weights = list(settings.loss_type), list(settings.loss_weights)
    if settings.rpo_alpha and len(weights) in (0, len(names)):
        weights = [*(weights or [1.0] * len(names)), settings.rpo_alpha]
        names = [*names, "sft"]
    return make_objective(settings, names, weights, beta=settings.beta)
