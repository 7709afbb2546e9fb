"""Flags of the benchmarks whose runs are judged on held-out captions of the bundled pairs."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.flags import flag


@dataclass(frozen=True)
class HeldOutSettings(BaseSettings):
    """Of ``race`` and ``losses``."""

    seeds: list[int] = flag([0, 1, 2, 3, 4], "seeds; a seed after the other is run")
    captions: int = flag(120, "held-out captions", least=2)
    draws: int = flag(4, "draws of each held-out pair, for the implicit accuracy", least=1)
    num_inference_steps: int = flag(20, "steps of a picture that is judged", least=1)
    small: bool = flag(False, "two steps of one seed on four captions: tries the command out")

    @property
    def judged_on(self) -> tuple[int, int, int]:
        """How many captions, draws of each pair, and steps of a picture."""
        return (4, 1, 2) if self.small else (self.captions, self.draws, self.num_inference_steps)

    @property
    def run_seeds(self) -> list[int]:
        """The seeds that are run."""
        return self.seeds[:1] if self.small else self.seeds
