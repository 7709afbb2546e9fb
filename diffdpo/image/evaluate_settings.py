"""The settings of the evaluation of an image policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from diffdpo.config import Layer
from diffdpo.engine.run_config import (
    chosen,
    departures,
    layer_of_run,
    recorded,
    result_problems,
    run_of,
)
from diffdpo.engine.settings import PRECISIONS
from diffdpo.flags import SEEDS, flag, restated
from diffdpo.image.adapter_settings import AdapterSettings, bits_problems, missing_lora
from diffdpo.image.lora_file import KOHYA_FILE, LORA_FILE
from diffdpo.image.process_settings import ProcessSettings
from diffdpo.image.settings import ImageDataSettings
from diffdpo.metrics.reward_settings import RewardSettings

# Settings that an evaluation takes over from the run: ALWAYS, and TIED ones only together with the
# model or data set that they belong to. A wrong reference or resolution would give a wrong verdict.
ALWAYS = ["pretrained_vae_model_name_or_path", "unet_init", "init_lora", "reference"]
ALWAYS += ["max_sequence_length", "resolution", "num_frames", "is_turbo", "noise_offset"]
ALWAYS += ["cache_dir", "mixed_precision", *(field.name for field in fields(ProcessSettings))]
TIED = {
    "pretrained_model_name_or_path": ["revision", "variant"],
    "dataset_name": ["dataset_config_name", "data_format", "chosen_column", "rejected_column"],
}
TIED["dataset_name"] += ["prompt_column", "label_column", "max_image_pixels", "max_image_ratio"]
# With another value the figures are not those of what the run trained, or not against what it was
# trained against.
REFERENCE = ["pretrained_model_name_or_path", "pretrained_vae_model_name_or_path", "unet_init"]
REFERENCE += ["init_lora", "reference", "resolution", "num_frames", "is_turbo", "noise_offset"]
REFERENCE += ["max_sequence_length"]
# One of them is in the folder of a finished run.
RESULTS = [LORA_FILE, KOHYA_FILE, "unet", "transformer"]


@dataclass(frozen=True)
class EvaluateSettings(RewardSettings, ProcessSettings, ImageDataSettings):
    """All flags of ``evaluate.py``."""

    policy: str | None = flag(
        None, "the output folder of a finished run, or a checkpoint-N in that of any", group="model"
    )
    unet_init: str | None = flag(
        None,
        "the weights that training started from; default: the run's",
        aliases=["--init_policy"],
        group="model",
    )
    init_lora: str | None = restated(
        AdapterSettings, "init_lora", help="the LoRA that training went on from; default: the run's"
    )
    reference: str = restated(AdapterSettings, "reference")
    base_precision: str | None = restated(
        AdapterSettings,
        "base_precision",
        help="judge a LoRA on weights that are stored so; default: on those of mixed_precision",
    )
    mixed_precision: str | None = flag(
        None,
        "precision of the model: no, bf16 or fp16; default: the run's",
        group="evaluation",
        choices=PRECISIONS,
    )
    noise_offset: float = flag(
        0.0, "noise offset of the run's training", group="evaluation", least=0
    )
    output_dir: str = flag(
        "runs/evaluation",
        "where evaluation.json, sheet.png and report.html go",
        group="evaluation",
    )
    dataset_split_name: str = flag(
        "test", "split of the pairs to judge on", aliases=["--split"], group="data"
    )
    num_prompts: int = flag(
        120, "at most so many distinct prompts of the pairs", group="evaluation", least=1
    )
    images_per_prompt: int = flag(
        2, "pictures per prompt, each from its own seed", group="evaluation", least=1
    )
    num_inference_steps: int = flag(20, "sampling steps", group="evaluation", least=1, most=1000)
    guidance_scale: float = flag(3.0, "classifier-free guidance", group="evaluation", least=0)
    sample_batch_size: int = flag(16, "pictures sampled at once", group="evaluation", least=1)
    implicit_draws: int = flag(
        10,
        "draws (timestep, noise) per pair; 0 leaves the accuracy out",
        group="evaluation",
        least=0,
        most=1000,
    )
    seed: int = flag(0, "seed of the starting noise and the draws", group="evaluation", **SEEDS)

    def problems(self) -> list[str]:
        lines = [*super().problems(), *bits_problems(self.base_precision)]
        parts = [Path(self.policy or "") / part for part in ("unet", "transformer")]
        if self.base_precision and self.policy and any(part.is_dir() for part in parts):
            lines.append(
                f"--base_precision {self.base_precision}: the policy is a full fine-tune; leave"
                " the flag out"
            )
        data = self.dataset_name or self.train_data_dir
        named = {"pretrained_model_name_or_path": self.pretrained_model_name_or_path}
        named["dataset_name"] = data
        lines += missing_lora(self.init_lora)
        return lines + result_problems(self.policy, RESULTS, named, checkpoints=True)

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The model and data that the evaluated run recorded."""
        policy = given.get("policy")
        run = recorded(run_of(policy)) if policy else {}
        own = {name: run.get(name) for name in ALWAYS}
        return layer_of_run(str(run_of(str(policy))), {**chosen(run, given, TIED), **own}, given)

    @property
    def departures(self) -> list[str]:
        """A line for each setting by which the reference is not the one of training."""
        return departures(
            recorded(run_of(str(self.policy))), {n: getattr(self, n) for n in REFERENCE}
        )
