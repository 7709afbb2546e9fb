"""The forward process q(x_t | x_0) of a network: timesteps, noisy latents, targets.

There are two behind one shape: diffusion, and flows. Shapes: ``N`` items, latents of any rank.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from diffdpo.errors import UserError
from diffdpo.image.flags.process_settings import ProcessSettings
from diffdpo.image.process.densities import DENSITIES, shifted
from diffdpo.image.process.flow_schedules import scheduler_shift
from diffdpo.image.process.schedules import check_flow_schedule, training_schedule

TURBO_STEPS = 4  # as SDXL Turbo is trained and sampled (Sauer et al. 2023)
DEFAULT = ProcessSettings()
TRIES = 10_000  # draws until one of a range is given up


class Process(Protocol):
    """What a task asks of a forward process.

    Wallace et al. 2023 use q in place of the policy's own trajectory (their eq. 13), so that noisy
    latents need no network.
    """

    prediction_type: str  # what the network predicts

    @property
    def timestep(self) -> Callable[[np.random.Generator], float]:
        """Draws a timestep, as the network and ``corrupt`` take it; it holds no tables."""
        ...

    @property
    def timesteps(self) -> float:
        """The length of the process, in the unit of its timesteps."""
        ...

    def corrupt(self, latents: Tensor, noise: Tensor, timestep_N: Tensor) -> Tensor:
        """Noisy latents x_t."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timestep_N: Tensor) -> Tensor:
        """What the network should predict at x_t."""
        ...

    def weight(self, timestep_N: Tensor) -> Tensor | None:
        """The factor of each item's error inside the log-sigmoid; None where all are 1."""
        ...

    def facts(self) -> str:
        """All that draws depend on, beside the settings, as text."""
        ...


@dataclass(frozen=True)
class WholeTimestep:
    """One of the timesteps ``choices``, each as often as the others."""

    choices: range

    def __call__(self, random: np.random.Generator) -> int:
        return self.choices[int(random.integers(len(self.choices)))]


def whole_timesteps(timesteps: int, turbo: bool, bounds: Sequence[float]) -> range:
    """Those of ``timesteps`` that lie within ``bounds``, in shares of the process: timestep k is
    the part from k to k + 1 of it. For turbo models of the four at which they are sampled.

    Raises UserError where there is none.
    """
    low, high = (math.floor(timesteps * bound + 0.5) for bound in bounds)
    stride = timesteps // TURBO_STEPS if turbo else 1
    found = range(stride - 1, TURBO_STEPS * stride if turbo else timesteps, stride)
    within = [timestep for timestep in found if low <= timestep < high]
    if not within:
        raise UserError(
            f"--timestep_range {bounds[0]:g} {bounds[1]:g}: none of the {len(found)} timesteps is"
            " there"
        )
    return range(within[0], within[-1] + 1, stride)


@dataclass(frozen=True)
class FlowTimestep:
    """t from the density, shifted, within the range."""

    settings: ProcessSettings
    shift: float
    turbo: bool

    def __call__(self, random: np.random.Generator) -> float:
        t = self.anywhere(random)
        while not self.inside(t):
            t = self.anywhere(random)
        return t

    def anywhere(self, random: np.random.Generator) -> float:
        """t before the range is asked; for turbo models, one of the four of their sampling."""
        if self.turbo:
            return shifted((1 + int(random.integers(TURBO_STEPS))) / TURBO_STEPS, self.shift)
        return shifted(DENSITIES[self.settings.weighting_scheme](random, self.settings), self.shift)

    def inside(self, t: float) -> bool:
        """Whether t can be trained at and is in the range; at t = 0 nothing is to be predicted."""
        low, high = self.settings.timestep_range
        return t > 0 and low <= t <= high


class Diffusion:
    """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε at whole timesteps (Ho et al. 2020)."""

    def __init__(
        self, scheduler: Any, turbo: bool = False, bounds: Sequence[float] = (0.0, 1.0)
    ) -> None:
        """The process of a pipeline's ``scheduler``; the tables are in ``schedules.py``. Timesteps
        are drawn within ``bounds``, in shares of the process."""
        self.scheduler = training_schedule(scheduler, turbo)
        self.prediction_type = self.scheduler.config.prediction_type
        if turbo and self.timesteps < TURBO_STEPS:
            raise UserError(f"--is_turbo needs {TURBO_STEPS} timesteps; the scheduler has fewer")
        self.timestep = WholeTimestep(whole_timesteps(self.timesteps, turbo, bounds))

    @property
    def timesteps(self) -> int:
        """The number of timesteps of the process."""
        return self.scheduler.config.num_train_timesteps

    def corrupt(self, latents: Tensor, noise: Tensor, timestep_N: Tensor) -> Tensor:
        """x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε (Ho et al. 2020, eq. 4)."""
        return self.scheduler.add_noise(latents, noise, timestep_N)

    def target(self, latents: Tensor, noise: Tensor, timestep_N: Tensor) -> Tensor:
        """ε, or v = √ᾱ_t ε − √(1−ᾱ_t) x_0 (Salimans & Ho 2022)."""
        if self.prediction_type == "epsilon":
            return noise
        return self.scheduler.get_velocity(latents, noise, timestep_N)

    def weight(self, timestep_N: Tensor) -> None:
        """Every timestep alike, as in the paper's code."""
        return

    def facts(self) -> str:
        # Names that begin with _ are diffusers' own notes, in an order that changes between
        # processes.
        config = {k: v for k, v in self.scheduler.config.items() if not k.startswith("_")}
        return json.dumps(config, sort_keys=True, default=str)


class Flow:
    """x_t = (1−t) x_0 + t ε, t ∈ (0, 1) in float32, velocity ε − x_0 (Liu et al. 2022, arXiv
    2209.03003).

    The score's weight β(t)/β is one of four: ``constant``, as recommended by Liu et al. 2025 (arXiv
    2501.13918); ``eps`` and ``x0``, which make it an error of ε or x_0; and ``elbo``, the bound of
    the likelihood.
    """

    prediction_type = "flow"
    timesteps = 1.0

    def __init__(
        self,
        scheduler: Any,
        settings: ProcessSettings = DEFAULT,
        tokens: int = 0,
        turbo: bool = False,
    ) -> None:
        """``tokens``: of a picture of the training resolution, on which the shift may depend.

        Raises UserError for a scheduler of another process, and a range that t never meets.
        """
        check_flow_schedule(scheduler)
        self.settings, self.turbo = settings, turbo
        self.shift = shift_of(settings.timestep_shift, scheduler, tokens)
        self.timestep = FlowTimestep(settings, self.shift, turbo)
        tries = (self.timestep.anywhere(np.random.default_rng(n)) for n in range(TRIES))
        if not any(map(self.timestep.inside, tries)):
            low, high = settings.timestep_range
            raise UserError(
                f"--timestep_range {low:g} {high:g}: {settings.weighting_scheme} with"
                f" shift {self.shift:g} has hardly any t there"
            )

    def corrupt(self, latents: Tensor, noise: Tensor, timestep_N: Tensor) -> Tensor:
        t = timestep_N.view(-1, *(1,) * (latents.dim() - 1))
        return (1 - t) * latents + t * noise

    def target(self, latents: Tensor, noise: Tensor, timestep_N: Tensor) -> Tensor:
        return noise - latents

    def weight(self, timestep_N: Tensor) -> Tensor | None:
        return {
            "constant": None,
            "eps": (1 - timestep_N).square(),
            "x0": timestep_N.square(),
            "elbo": (1 - timestep_N) / timestep_N,
        }[self.settings.timestep_weight]

    def facts(self) -> str:
        own = {field.name for field in fields(ProcessSettings)}
        settings = {name: value for name, value in asdict(self.settings).items() if name in own}
        return json.dumps({**settings, "shift": self.shift, "turbo": self.turbo}, sort_keys=True)


def shift_of(wanted: str, scheduler: Any, tokens: int) -> float:
    """The shift that ``--timestep_shift`` asks for."""
    if wanted == "auto":
        return scheduler_shift(scheduler, tokens)
    return 1.0 if wanted == "none" else float(wanted)


def stack_normal(generators: list[np.random.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers ``(len(generators), *shape)``, float32, each item from its own
    generator."""
    # On the CPU by numpy: the same numbers on every device, and in a batch of any size.
    return torch.from_numpy(
        np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])
    )
