"""The flags of the reference of text training, named as in TRL's scripts."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.flags import flag
from diffdpo.text.flags.adapter_settings import TextAdapterSettings

MIXUP_ALPHA, SYNC_STEPS = 0.6, 512  # TRL's defaults
# The mixture of two products of factors is not the product of the mixed factors.
FACTORS = (
    "--sync_ref_model mixes weights, and the mixture of a LoRA's factors is not that of the weights"
    " they give; --ref_model_mixup_alpha 1 takes the policy over whole"
)


@dataclass(frozen=True)
class TextReferenceSettings(TextAdapterSettings):
    """What the policy is compared with."""

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
        None,
        f"the policy's share in that mixture; default: {MIXUP_ALPHA}",
        group="model",
        above=0,
        most=1,
    )
    ref_model_sync_steps: int | None = flag(
        None, f"the number of these steps; default: {SYNC_STEPS}", group="model", least=1
    )
    precompute_ref_log_probs: bool = flag(
        False, "score the rows by the reference once and store the numbers", group="caching"
    )

    @property
    def mixup_alpha(self) -> float:
        """The policy's share where it is mixed into the reference."""
        return MIXUP_ALPHA if self.ref_model_mixup_alpha is None else self.ref_model_mixup_alpha

    @property
    def sync_steps(self) -> int:
        """The number of steps from one such mixture to the next."""
        return self.ref_model_sync_steps or SYNC_STEPS

    def problems(self) -> list[str]:
        lines = super().problems() + self.sync_problems()
        if self.ref_model_name_or_path and self.compares_with_nothing():
            lines.append(
                f"--ref_model_name_or_path: loss {self.loss_type[0]} has no reference; leave it out"
            )
        return lines

    def compares_with_nothing(self) -> bool:
        """Whether no loss has a reference."""
        from diffdpo.losses import LOSSES  # not above: it loads PyTorch

        rows = [LOSSES[name] for name in self.loss_type if name in LOSSES]
        return bool(rows) and all(row.reference_free for row in rows)

    def sync_problems(self) -> list[str]:
        """A line for each setting that does not go with a reference that is mixed with the
        policy."""
        if not self.sync_ref_model:
            names = ("ref_model_mixup_alpha", "ref_model_sync_steps")
            given = [name for name in names if getattr(self, name) is not None]
            return [f"--{name} belongs to --sync_ref_model; add that" for name in given]
        lines = []
        if self.use_peft and self.mixup_alpha != 1:
            lines.append(FACTORS)
        if self.ref_model_name_or_path:
            lines.append(
                "--sync_ref_model: the reference begins as the policy; leave out"
                " --ref_model_name_or_path"
            )
        if self.precompute_ref_log_probs:
            lines.append(
                "--sync_ref_model: a reference that moves has no stored scores; leave out"
                " --precompute_ref_log_probs"
            )
        if self.compares_with_nothing():
            lines.append(f"--sync_ref_model: loss {self.loss_type[0]} has no reference")
        return lines
