"""The settings of text preference training; flags are named as in TRL's scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.config import BaseSettings, Layer, read_yaml
from diffdpo.data.bundled import bundled
from diffdpo.data.paths import missing_models
from diffdpo.data.stream_settings import StreamSettings
from diffdpo.engine.settings import FREE_ON_RESUME
from diffdpo.flags import flag
from diffdpo.text.bits_settings import TextBitsSettings
from diffdpo.text.data_settings import TextDataSettings
from diffdpo.text.inert import INERT
from diffdpo.text.loss_settings import loss_problems

RECIPE = "scripts/recipes/reviews.yaml"
ALL_LINEAR = ["all-linear"]
STRATEGIES = ["no", "steps", "epoch"]
# Settings that decide how the numbers are computed and change them by rounding alone.
SAME_NUMBERS = {"attn_implementation", "share_prefix"}
NAME_BOTH = "--model_name_or_path and --dataset_name: name both, or none for the bundled ones"


@dataclass(frozen=True)
class TextModelSettings(BaseSettings):
    """The flags that name a language model and say how it is loaded, in training and evaluation."""

    model_name_or_path: str | None = flag(
        None, "model or adapter: a folder or hub id", group="model"
    )
    model_revision: str | None = flag(None, "revision on the hub", group="model")
    trust_remote_code: bool = flag(
        False, "run the code that a model on the hub brings along", group="model"
    )
    attn_implementation: str | None = flag(
        None, "eager, sdpa or flash_attention_2; default: the model's", group="model"
    )
    cache_dir: str | None = flag(None, "where downloads are kept", group="model")

    @property
    def hub_options(self) -> dict[str, Any]:
        """The arguments of ``from_pretrained`` that these flags stand for."""
        trust, revision = self.trust_remote_code, self.model_revision or "main"
        return {"revision": revision, "cache_dir": self.cache_dir, "trust_remote_code": trust}


@dataclass(frozen=True)
class TextSettings(TextModelSettings, TextDataSettings, TextBitsSettings, StreamSettings):
    """All flags of ``train_text_dpo.py``."""

    ref_model_name_or_path: str | None = flag(
        None,
        "another model as reference; default: the start of training",
        aliases=["--ref_model"],
        group="model",
    )
    sync_ref_model: bool = flag(
        False, "mix the policy into the reference every so many steps (TR-DPO)", group="model"
    )
    ref_model_mixup_alpha: float | None = flag(
        None, "the policy's share then; default: 0.6", group="model", above=0, most=1
    )
    ref_model_sync_steps: int | None = flag(
        None, "every so many steps; default: 512", group="model", least=1
    )
    precompute_ref_log_probs: bool = flag(
        False, "score the rows by the reference once and store the numbers", group="caching"
    )
    use_peft: bool = flag(
        False,
        "train a LoRA; left out: full fine-tune, or the adapter that is loaded",
        group="model",
    )
    lora_r: int = flag(
        16, "rank of the LoRA", aliases=["--lora_rank"], group="model", least=1, most=2**16
    )
    lora_alpha: int = flag(32, "the LoRA is scaled by lora_alpha / lora_r", group="model", least=1)
    router_aux_loss_coef: float | None = flag(
        None,
        "weight of the load-balancing loss of a mixture of experts; default: its configuration's",
        group="loss",
        least=0,
    )
    lora_target_modules: list[str] = flag(ALL_LINEAR, "layers that get an adapter", group="model")

    share_prefix: bool | None = flag(
        None,
        "compute a prompt once for both completions; default: where that pays",
        group="caching",
    )
    group_by_length: bool = flag(
        False, "rows of like length meet in a step; left out: chance decides", group="data"
    )
    eval_strategy: str = flag(
        "no",
        "no, steps or epoch: when to measure on held-out rows; always at the end as well",
        group="evaluation",
        choices=STRATEGIES,
    )
    eval_steps: int = flag(500, "measure every so many steps", group="evaluation", least=1)
    eval_batch_size: int = flag(
        8,
        "held-out rows at once",
        aliases=["--per_device_eval_batch_size"],
        group="evaluation",
        least=1,
    )
    eval_generations: int = flag(
        4,
        "held-out prompts that policy and reference answer side by side",
        group="evaluation",
        least=0,
    )
    max_new_tokens: int = flag(64, "length of these answers", group="evaluation", least=1)

    def problems(self) -> list[str]:
        lines = super().problems()
        if (self.model_name_or_path is None) != (self.dataset_name is None):
            lines.append(NAME_BOTH)
        lines += missing_models(self, ["model_name_or_path", "ref_model_name_or_path"])
        lines += sync_problems(self)
        soft = self.soft_label_scale is not None
        return lines + loss_problems(self, self.precompute_ref_log_probs, soft)

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The recipe of the bundled run, where no model, data or file of settings is given."""
        own = ("config", "model_name_or_path", "dataset_name")
        if any(given.get(name) for name in own):
            return None
        content = read_yaml(bundled(RECIPE))
        if "warmup_ratio" in given:
            content.pop("lr_warmup_steps", None)  # the same in other words
        return Layer(RECIPE, content)

    @property
    def sharing(self) -> bool | None:
        """``share_prefix`` where the loss has pairs; single completions have nothing to share."""
        from diffdpo.losses import LOSSES  # not above: it loads PyTorch

        names = [name for name in self.loss_type if name in LOSSES]
        return self.share_prefix if all(LOSSES[name].paired for name in names) else False

    @classmethod
    def free_on_resume(cls) -> set[str]:
        # Measuring leaves no trace in the training, so a resumed run may measure otherwise.
        measured = {
            "dataset_test_split",
            "eval_dataset_name",
            "eval_strategy",
            "eval_steps",
            "eval_batch_size",
        }
        measured |= {"eval_generations", "max_new_tokens"}
        elsewhere = {"cache_dir", "dataset_num_proc", "preview"}
        return FREE_ON_RESUME | measured | elsewhere | SAME_NUMBERS

    @classmethod
    def inert(cls) -> dict[str, str]:
        return INERT


def sync_problems(settings: TextSettings) -> list[str]:
    """A line for each setting that a reference does not go with that the policy is mixed into."""
    if not settings.sync_ref_model:
        names = ("ref_model_mixup_alpha", "ref_model_sync_steps")
        given = [name for name in names if getattr(settings, name) is not None]
        return [f"--{name} belongs to --sync_ref_model; add that" for name in given]
    lines = []
    if settings.ref_model_name_or_path:
        lines.append("--sync_ref_model: the reference begins as the policy; leave out --ref_model")
    if settings.precompute_ref_log_probs:
        lines.append("--sync_ref_model: a reference that moves has no stored scores; leave out"
                     " --precompute_ref_log_probs")  # fmt: skip
    from diffdpo.losses import LOSSES  # not above: it loads PyTorch

    rows = [LOSSES[name] for name in settings.loss_type if name in LOSSES]
    if rows and all(row.reference_free for row in rows):
        lines.append(f"--sync_ref_model: loss {settings.loss_type[0]} has no reference")
    return lines
