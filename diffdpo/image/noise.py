"""The forward process q(x_t | x_0) of a pipeline's scheduler: timesteps, noisy latents, targets.

Shapes: ``N`` items, latents ``NCHW``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.image.schedules import training_schedule

TURBO_STEPS = 4  # as SDXL Turbo is trained and sampled (Sauer et al. 2023)


class ForwardProcess:
    """Timesteps, noisy latents and targets.

    Wallace et al. 2023 use q in place of the policy's own trajectory (their eq. 13), so that noisy
    latents need no network.
    """

    def __init__(self, scheduler: Any, turbo: bool = False) -> None:
        """The process of a pipeline's ``scheduler``; the tables are in ``schedules.py``."""
        self.scheduler = training_schedule(scheduler, turbo)
        self.turbo = turbo
        self.prediction_type = self.scheduler.config.prediction_type
        if turbo and self.timesteps < TURBO_STEPS:
            raise UserError(f"--is_turbo needs {TURBO_STEPS} timesteps; the scheduler has fewer")

    @property
    def timesteps(self) -> int:
        """The number of timesteps of the process."""
        return self.scheduler.config.num_train_timesteps

    def timestep(self, random: np.random.Generator) -> int:
        """A uniform timestep; for turbo models, one of the four at which they are sampled."""
        if not self.turbo:
            return int(random.integers(self.timesteps))
        stride = self.timesteps // TURBO_STEPS
        return stride * int(random.integers(TURBO_STEPS)) + stride - 1

    def corrupt(self, latents_NCHW: Tensor, noise_NCHW: Tensor, timestep_N: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Ho et al. 2020, eq. 4)."""
        return self.scheduler.add_noise(latents_NCHW, noise_NCHW, timestep_N)

    def target(self, latents_NCHW: Tensor, noise_NCHW: Tensor, timestep_N: Tensor) -> Tensor:
        """ε, or v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (Salimans & Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise_NCHW
        return self.scheduler.get_velocity(latents_NCHW, noise_NCHW, timestep_N)


def stack_normal(generators: list[np.random.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers ``(len(generators), *shape)``, float32, each item from its own
    generator."""
    # On the CPU by numpy: the same numbers on every device, and in a batch of any size.
    return torch.from_numpy(
        np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])
    )
