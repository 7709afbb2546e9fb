"""Settings of what is watched in image preference training: held-out pairs, drift, pictures."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.engine.settings import TrainSettings
from diffdpo.flags import flag

ON_DRIFT = ["warn", "stop", "rollback"]
# What a resumed run may change: none of it touches the numbers of a step.
FREE_OF_WATCHING = {"eval_steps", "on_drift", "drift_share"}
OF_PICTURES = ["validation_steps", "validation_prompts", "num_validation_images"]
# How a model is sampled stands in recipes, for those who ask for pictures beside them.
FREE_OF_WATCHING |= {"run_validation", *OF_PICTURES, "num_inference_steps", "guidance_scale"}


@dataclass(frozen=True)
class WatchSettings(TrainSettings):
    """The flags of held-out pairs, of winner drift and of pictures on the way."""

    holdout: float | None = flag(
        None,
        "pairs that are kept out of training and measured on: a number, or below 1 a share; picked"
        " by the seed, pairs that share a prompt or a picture together",
        aliases=["--validation_split"],
        group="evaluation",
        above=0,
    )
    eval_steps: int = flag(
        100, "measure on the held-out pairs every so many steps", group="evaluation", least=1
    )
    on_drift: str = flag(
        "warn",
        "when the policy's error on winners lies well above the reference's: warn, stop once it is"
        " saved, or rollback to the checkpoint before and end with that",
        group="training",
        choices=ON_DRIFT,
    )
    drift_share: float = flag(
        0.05, "share of the reference's error from which on it does", group="training", least=0
    )
    run_validation: bool = flag(
        False, "sample policy beside reference during and after training", group="evaluation"
    )
    validation_steps: int = flag(200, "sample every so many steps", group="evaluation", least=1)
    validation_prompts: list[str] = flag(
        [], "prompts to sample; default: 8 of the data's", group="evaluation"
    )
    num_validation_images: int = flag(
        2,
        "pictures of each validation prompt, every one from noise of its own; from two on, how much"
        " they differ is compared with the reference's",
        group="evaluation",
        least=1,
        most=64,
    )
    num_inference_steps: int = flag(
        25, "sampling steps of validation pictures", group="evaluation", least=1, most=1000
    )
    guidance_scale: float = flag(
        5.0, "classifier-free guidance of validation pictures", group="evaluation", least=0
    )

    @property
    def drift_rule(self) -> tuple[str, float]:
        """What a run does at winner drift, and from which share of the reference's error on."""
        return self.on_drift, self.drift_share

    def problems(self) -> list[str]:
        lines = super().problems()
        wanted = self.holdout
        if wanted is not None and wanted >= 1 and wanted != int(wanted):
            lines.append(f"--holdout {wanted:g}: a number of pairs is whole; a share is below 1")
        if self.keep_best and wanted is None:
            lines.append("--keep_best: no pairs are held out to judge by; add --holdout")
        return lines

    def idle(self) -> dict[str, str]:
        reasons = super().idle()
        if self.holdout is None:
            reasons["eval_steps"] = "no pairs are held out to measure on; add --holdout"
        if not self.run_validation:
            reasons |= dict.fromkeys(OF_PICTURES, "no pictures are sampled; add --run_validation")
        return reasons
