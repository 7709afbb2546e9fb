"""The forward process q(x_t | x_0) of a pipeline's scheduler: timesteps, noisy latents, targets.

Shapes: ``N`` items, latents ``NCHW``.
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from diffdpo.errors import UserError

TURBO_STEPS = 4  # as SDXL Turbo is trained and sampled (Sauer et al. 2023)


class ForwardProcess:
    """Timesteps, noisy latents and targets.

    Wallace et al. 2023 use q in place of the policy's own trajectory (their eq. 13), so that noisy
    latents need no network.
    """

    def __init__(self, scheduler_config: dict, turbo: bool = False) -> None:
        # Turbo models are sampled from pure noise, so their last timestep must carry no signal (Lin
        # et al. 2023).
        changes = {"rescale_betas_zero_snr": True} if turbo else {}
        self.scheduler = DDPMScheduler.from_config(scheduler_config, **changes)
        self.turbo = turbo
        self.prediction_type = self.scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise UserError(
                f"prediction type {self.prediction_type!r} is not supported (epsilon, v_prediction"
                " are)"
            )

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
