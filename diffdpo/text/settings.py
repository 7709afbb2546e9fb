"""The settings of text preference training; flags are named as in TRL's scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.config import BaseSettings, Layer, Translation, read_yaml
from diffdpo.data.bundled import bundled
from diffdpo.data.paths import missing_models
from diffdpo.data.strategies import OVER, UNDER
from diffdpo.data.stream_settings import StreamSettings
from diffdpo.engine.settings import FIGURES, FREE_ON_RESUME
from diffdpo.flags import flag, one_of
from diffdpo.text.flags.data_settings import TextDataSettings
from diffdpo.text.flags.loss_settings import loss_problems
from diffdpo.text.flags.picture_settings import PictureSettings
from diffdpo.text.flags.reference_settings import TextReferenceSettings
from diffdpo.text.flags.sources import entry_problems
from diffdpo.text.flags.train_settings import steps_or_share
from diffdpo.text.recipes.foreign import FOREIGN, translate
from diffdpo.text.recipes.inert import INERT
from diffdpo.text.recipes.refused import REFUSED

RECIPE = "scripts/recipes/reviews.yaml"
STRATEGIES = ["no", "steps", "epoch"]
# Settings that decide how the numbers are computed and change them by rounding alone.
SAME_NUMBERS = {"attn_implementation", "share_prefix", "padding_free"}
FLEX = "flex_attention"  # as transformers calls it; rows are packed then, prompts shared
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
        None,
        "eager, sdpa, flash_attention_2 or flex_attention; default: the model's",
        group="model",
    )
    cache_dir: str | None = flag(None, "where downloads are kept", group="model")
    chat_template: str | None = flag(
        None,
        "what renders conversations: a Jinja file or text, or the folder or hub id of a tokenizer"
        " that has the template; default: the model's own",
        aliases=["--chat_template_path"],
        group="model",
    )
    chat_template_kwargs: dict[str, Any] | None = flag(
        None,
        'arguments of the template for all rows, such as {"enable_thinking": false}; those of a'
        " row's own column hold before them",
        group="model",
    )

    @property
    def hub_options(self) -> dict[str, Any]:
        """The arguments of ``from_pretrained`` that these flags stand for."""
        trust, revision = self.trust_remote_code, self.model_revision or "main"
        return {"revision": revision, "cache_dir": self.cache_dir, "trust_remote_code": trust}


@dataclass(frozen=True)
class TextSettings(
    TextModelSettings, TextDataSettings, PictureSettings, TextReferenceSettings, StreamSettings
):
    """All flags of ``train_text_dpo.py``."""

    router_aux_loss_coef: float | None = flag(
        None,
        "weight of the load-balancing loss of a mixture of experts; default: its configuration's",
        aliases=["--moe_aux_loss_coef"],
        group="loss",
        least=0,
    )
    share_prefix: bool | None = flag(
        None,
        "compute a prompt once for both completions; default: where that pays",
        group="caching",
    )
    padding_free: bool = flag(
        False,
        "read the rows of a step one behind the other, without padding between them; each then has"
        " its own prompt, but under flex_attention, which always reads them so",
        group="model",
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
    eval_steps: float = flag(
        500,
        "measure every so many steps; below 1: of this share of all steps",
        group="evaluation",
        read=steps_or_share,
        above=0,
    )
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
        if (self.model_name_or_path is None) != (not (self.dataset_name or self.datasets)):
            lines.append(NAME_BOTH)
        lines += missing_models(self, ["model_name_or_path", "ref_model_name_or_path"])
        if (wanted := self.eval_fraction) is not None:
            lines += self.fraction_problems(wanted)
        if self.streaming and self.mix_strategy == OVER:
            lines.append(
                f"--mix_strategy {OVER}: rows come again and again, which --streaming cannot; take"
                f" {UNDER}"
            )
        if self.eval_dataset_name and self.eval_strategy == "no":
            line = "--eval_dataset_name: nothing is measured"
            lines.append(f"{line}; add --eval_strategy steps or epoch")
        if self.padding_free and self.share_prefix and self.attn_implementation != FLEX:
            line = "--padding_free: every completion then has its own prompt; leave --share_prefix"
            lines.append(f"{line} out, or add --attn_implementation {FLEX}")
        if self.best_by is None and not entry_problems(self.datasets):
            of_sets = (f"{name}/{FIGURES[0]}" for name in self.held_out_names)
            known = [*FIGURES, *of_sets]
            lines += one_of("metric_for_best_model", self.metric_for_best_model, known)
        soft = self.soft_label_scale is not None
        return lines + loss_problems(self, self.precompute_ref_log_probs, soft)

    @property
    def held_out_names(self) -> list[str]:
        """The names of the held-out sets that have one."""
        if self.eval_fraction is not None or entry_problems(self.datasets):
            return []
        return [source.label for source in self.held_out_sources if source.label]

    @property
    def best_by(self) -> str | None:
        """``metric_for_best_model`` as figures are called here; None where there is none such.
        transformers has an underscore after the name of a set."""
        wanted = self.metric_for_best_model.removeprefix("eval_")
        begins = {f"{name}{mark}": f"{name}/" for name in self.held_out_names for mark in "/_"}
        known = {
            f"{begin}{figure}": f"{own}{figure}"
            for begin, own in {"": "", **begins}.items()
            for figure in FIGURES
        }
        return known.get(wanted)

    def fraction_problems(self, wanted: float) -> list[str]:
        """Why ``--eval_fraction`` cannot be had."""
        lines, name = [], f"--eval_fraction {wanted:g}"
        if wanted > 1 and not wanted.is_integer():
            lines.append(f"{name}: a number of rows is whole; a share is below 1")
        if self.eval_strategy == "no":
            lines.append(f"{name}: nothing is measured; add --eval_strategy steps or epoch")
        if self.eval_dataset_name:
            lines.append(f"{name}: --eval_dataset_name names the rows to measure on; keep one")
        if self.streaming:
            lines.append(f"{name} picks among all rows, and --streaming does not see them at once")
        return lines

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The recipe of the bundled run, where no model, data or file of settings is given."""
        own = ("config", "model_name_or_path", "dataset_name", "datasets")
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
        elsewhere = {"cache_dir", "dataset_num_proc", "media_dir", "preview"}
        return FREE_ON_RESUME | measured | elsewhere | SAME_NUMBERS

    @classmethod
    def inert(cls) -> dict[str, str]:
        return INERT

    @classmethod
    def refused(cls) -> dict[str, str]:
        return REFUSED

    @classmethod
    def foreign(cls) -> set[str]:
        return FOREIGN

    @classmethod
    def translated(cls, content: Mapping[str, Any]) -> Translation:
        return translate(content)
