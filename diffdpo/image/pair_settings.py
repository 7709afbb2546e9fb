"""The settings of pairs that are sampled for prompts and labelled by rewards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffdpo.config import Layer
from diffdpo.engine.run_config import layer_of_policy, recorded, result_problems, run_of
from diffdpo.engine.settings import PRECISIONS
from diffdpo.errors import short
from diffdpo.flags import SEEDS, flag, restated
from diffdpo.image.evaluate_settings import RESULTS, TIED, EvaluateSettings, idle_split
from diffdpo.image.flags.adapter_settings import AdapterSettings, missing_lora
from diffdpo.image.settings import ImageDataSettings
from diffdpo.metrics.reward_settings import RewardSettings
from diffdpo.pairs.settings import CandidateSettings

# Settings that sampling takes over from the run of the policy: ALWAYS, and those that belong to a
# model or data set, see TIED. Other weights or another size would be another policy.
ALWAYS = ["pretrained_vae_model_name_or_path", "unet_init", "init_lora", "reference"]
ALWAYS += ["max_sequence_length", "resolution", "is_turbo", "cache_dir", "mixed_precision"]
DATA = [*TIED["dataset_name"], "dataset_split_name"]


@dataclass(frozen=True)
class PairSettings(RewardSettings, CandidateSettings, ImageDataSettings):
    """All flags of ``make_pairs.py`` for pictures."""

    policy: str | None = flag(
        None,
        "who samples: the output folder of a run, or a checkpoint-N in that of any; default: the"
        " model",
        group="model",
    )
    unet_init: str | None = restated(EvaluateSettings, "unet_init")
    init_lora: str | None = restated(EvaluateSettings, "init_lora")
    reference: str = restated(AdapterSettings, "reference")
    reward: list[str] = flag(
        ["colourfulness"],
        "rows of diffdpo.metrics.REWARDS, or file.py:function; the higher score is preferred",
        group="rewards",
    )
    mixed_precision: str | None = flag(
        None,
        "precision of the model: no, bf16 or fp16; default: the run's, or no",
        group="evaluation",
        choices=PRECISIONS,
    )
    output_dir: str = flag(
        "runs/pairs", "folder of the new data set, of its record and its sheet", group="evaluation"
    )
    num_inference_steps: int = flag(
        20, "sampling steps", group="evaluation", changes="candidates", least=1, most=1000
    )
    guidance_scale: float | None = flag(
        None,
        "classifier-free guidance; default: that of the model's pipeline, as the model is used",
        group="evaluation",
        changes="candidates",
        least=0,
    )
    sample_batch_size: int = flag(16, "pictures sampled at once", group="evaluation", least=1)
    seed: int = flag(
        1,
        "of the candidates' noise, the sides and choices by chance",
        group="evaluation",
        changes="candidates",
        **SEEDS,
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        data = self.dataset_name or self.train_data_dir
        if self.prompts is not None and data:
            lines.append(f"--prompts {self.prompts}: {short(data)} is then not read; keep one")
        if (self.num_frames or 1) > 1:
            lines.append(
                f"--num_frames {self.num_frames}: pairs are made of pictures; leave it out"
            )
        lines += missing_lora(self.init_lora)
        if self.policy is None:
            given: dict[str, object] = {"init_lora": self.init_lora, "unet_init": self.unet_init}
            given["reference"] = self.reference != "start"
            lines += [
                f"--{name} goes with --policy, whose run names it; leave it out"
                for name, value in given.items()
                if value
            ]
            return lines
        named = {"pretrained_model_name_or_path": self.pretrained_model_name_or_path}
        if self.prompts is None:
            named["dataset_name"] = self.dataset_name or self.train_data_dir
        return lines + result_problems(self.policy, RESULTS, named, checkpoints=True)

    def idle(self) -> dict[str, str]:
        return super().idle() | idle_split(self.prompts, None)

    @property
    def needs_pairs(self) -> bool:
        """Whether the prompts are those of pairs."""
        return self.prompts is None

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The model and, where no prompts are named, the data that the policy's run recorded."""
        policy = given.get("policy")
        run = recorded(run_of(policy)) if policy else {}
        tied = {**TIED, "dataset_name": DATA}
        if given.get("prompts"):
            del tied["dataset_name"]
        return layer_of_policy(policy, run, given, tied, ALWAYS)

    @property
    def start(self) -> AdapterSettings:
        """What the training of the policy started from."""
        names = ("unet_init", "init_lora", "reference")
        return AdapterSettings(**{name: getattr(self, name) for name in names})

    @property
    def sampler(self) -> str:
        """The name of what samples."""
        return str(self.policy or self.pretrained_model_name_or_path)
