"""Settings of the forward process: which t are met and, for flow models, what each weighs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from diffdpo.config import BaseSettings
from diffdpo.flags import flag

SCHEMES = ["uniform", "logit_normal", "mode"]
WEIGHTS = ["constant", "eps", "x0", "elbo"]
SHIFTS = "auto, none or a positive number"


@dataclass(frozen=True)
class ProcessSettings(BaseSettings):
    """What draws depend on, and the scores of flow models, beside the scheduler."""

    weighting_scheme: str = flag(
        "uniform",
        "density of t for flow models, not a weight",
        group="flow",
        changes="draws",
        choices=SCHEMES,
    )
    logit_mean: float = flag(
        0.0,
        "mean of logit_normal; as in diffusers' scripts, positive means less noise",
        group="flow",
        changes="draws",
    )
    logit_std: float = flag(
        1.0, "deviation of logit_normal", group="flow", changes="draws", above=0
    )
    mode_scale: float = flag(1.29, "scale of mode", group="flow", changes="draws")
    timestep_shift: str = flag(
        "auto",
        "shift of t towards noise: auto (the scheduler's, for this resolution), none, or a number",
        group="flow",
        changes="draws",
    )
    timestep_range: list[float] = flag(
        [0.0, 1.0],
        "smallest and largest t that is drawn, 1 is noise; diffusion models: in shares of their"
        " timesteps",
        group="flow",
        changes="draws",
    )
    timestep_weight: str = flag(
        "constant",
        "weight of t inside the log-sigmoid, for flow models: constant, eps ((1−t)²), x0 (t²), elbo"
        " ((1−t)/t)",
        group="flow",
        changes="draws",
        choices=WEIGHTS,
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.timestep_shift not in ("auto", "none") and not positive(self.timestep_shift):
            lines.append(f"--timestep_shift must be {SHIFTS}, got {self.timestep_shift}")
        ends = self.timestep_range
        if len(ends) != 2 or not 0 <= ends[0] < ends[1] <= 1:
            lines.append(
                "--timestep_range needs two numbers, the smaller one first, between 0 and 1; got"
                f" {' '.join(map(str, ends))}"
            )
        return lines

    def idle(self) -> dict[str, str]:
        owners = {"logit_mean": "logit_normal", "logit_std": "logit_normal", "mode_scale": "mode"}
        return super().idle() | {
            name: f"it is that of --weighting_scheme {scheme}"
            for name, scheme in owners.items()
            if self.weighting_scheme != scheme
        }

    def flow_flags(self) -> list[str]:
        """The flags that only flow models know and that differ from their defaults."""
        default = ProcessSettings()
        names = [f.name for f in fields(ProcessSettings) if f.name != "timestep_range"]
        return [f"--{n}" for n in names if getattr(self, n) != getattr(default, n)]


def positive(text: str) -> bool:
    """Whether a text is a finite number above 0."""
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False
