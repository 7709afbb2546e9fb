"""Settings of the two commands that sample pictures: evaluation, and pairs labelled by a reward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffdpo.config import Layer, at_least, flag
from diffdpo.engine.run_config import chosen, layer_of_run, recorded
from diffdpo.image.settings import ImageDataSettings
from diffdpo.metrics import REWARDS, reward_problems

# Settings that an evaluation takes over from the run: ALWAYS, and TIED ones only together with the
# model or data set that they belong to. A wrong reference or resolution would give a wrong verdict.
ALWAYS = ["pretrained_vae_model_name_or_path", "unet_init", "resolution", "is_turbo"]
ALWAYS += ["noise_offset", "cache_dir"]
TIED = {
    "pretrained_model_name_or_path": ["revision", "variant"],
    "dataset_name": ["dataset_config_name", "data_format", "chosen_column", "rejected_column"],
}
TIED["dataset_name"] += ["prompt_column", "label_column", "max_image_pixels", "max_image_ratio"]


@dataclass(frozen=True)
class EvaluateSettings(ImageDataSettings):
    """All flags of ``evaluate.py``."""

    policy: str | None = flag(None, "the output folder of a finished run", group="model")
    unet_init: str | None = flag(
        None, "the UNet that training started from; default: the run's", group="model"
    )
    noise_offset: float = flag(0.0, "noise offset of the run's training", group="evaluation")
    output_dir: str = flag(
        "runs/evaluation",
        "where evaluation.json, sheet.png and report.html go",
        group="evaluation",
    )
    dataset_split_name: str = flag(
        "test", "split of the held-out pairs", aliases=["--split"], group="data"
    )
    reward: list[str] = flag(
        [],
        "rows of diffdpo.metrics.REWARDS, or file.py:function; the first gives the win rate",
        group="evaluation",
    )
    num_prompts: int = flag(
        120, "at most so many distinct prompts of the held-out pairs", group="evaluation"
    )
    images_per_prompt: int = flag(
        2, "pictures per prompt, each from its own seed", group="evaluation"
    )
    num_inference_steps: int = flag(20, "sampling steps", group="evaluation")
    guidance_scale: float = flag(3.0, "classifier-free guidance", group="evaluation")
    sample_batch_size: int = flag(16, "pictures sampled at once", group="evaluation")
    implicit_draws: int = flag(
        10,
        "draws (timestep, noise) per held-out pair; 0 leaves the accuracy out",
        group="evaluation",
    )
    seed: int = flag(0, "seed of the starting noise and the draws", group="evaluation")

    def problems(self) -> list[str]:
        lines = [
            *super().problems(),
            *reward_problems(self.reward, REWARDS),
            *at_least(self, COUNTS),
        ]
        lines += [*at_least(self, ["implicit_draws"], least=0)]
        if not self.policy:
            lines.append("--policy is needed: the output folder of a finished run")
        elif not Path(self.policy).is_dir():
            lines.append(f"--policy {self.policy}: no such folder; did its run finish?")
        return lines

    @classmethod
    def beneath(cls, given: Mapping[str, Any]) -> Layer | None:
        """The model and data that the evaluated run recorded."""
        policy = given.get("policy")
        run = recorded(policy)
        own = {name: run.get(name) for name in ALWAYS}
        return layer_of_run(str(policy), {**chosen(run, given, TIED), **own})


@dataclass(frozen=True)
class PairSettings(ImageDataSettings):
    """All flags of ``make_pairs.py``; the prompts are those of the data set."""

    reward: str = flag(
        "colourfulness",
        "a row of diffdpo.metrics.REWARDS, or file.py:function; the higher score is preferred",
        group="evaluation",
    )
    output_dir: str = flag("runs/pairs", "folder of the new data set", group="evaluation")
    num_inference_steps: int = flag(20, "sampling steps", group="evaluation")
    guidance_scale: float = flag(
        1.5,
        "classifier-free guidance; low, so that the two pictures differ",
        group="evaluation",
    )
    sample_batch_size: int = flag(16, "pictures sampled at once", group="evaluation")
    seed: int = flag(1, "seed of the starting noise", group="evaluation")

    def problems(self) -> list[str]:
        return super().problems() + reward_problems([self.reward], REWARDS)


COUNTS = ["num_prompts", "images_per_prompt", "num_inference_steps", "sample_batch_size"]
