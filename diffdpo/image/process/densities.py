"""ADD A DENSITY OF t HERE: one function, one row. How often a flow meets each amount of noise.

A density is no weight. It stands outside of the log-sigmoid and the weight inside, so that one
cannot be exchanged for the other as in training by squared errors. At t = 1 all is noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from diffdpo.image.flags.process_settings import ProcessSettings

Density = Callable[[np.random.Generator, ProcessSettings], float]


def uniform(random: np.random.Generator, settings: ProcessSettings) -> float:
    """Every t alike, as in Flow-DPO (Liu et al. 2025, arXiv 2501.13918)."""
    return 1 - random.random()


def logit_normal(random: np.random.Generator, settings: ProcessSettings) -> float:
    """A normal number through the logistic function (Esser et al. 2024, arXiv 2403.03206, eq. 19).

    ``logit_mean`` has the sign of diffusers' scripts, whose u counts from noise to picture: a
    positive one means less noise.
    """
    z = settings.logit_mean + settings.logit_std * random.standard_normal()
    return 1 - 1 / (1 + math.exp(-z))


def mode(random: np.random.Generator, settings: ProcessSettings) -> float:
    """Heavy in the middle or at the ends (Esser et al. 2024, eq. 20), u as in ``logit_normal``."""
    u = random.random()
    return u + settings.mode_scale * (math.cos(math.pi * u / 2) ** 2 - 1 + u)


DENSITIES: dict[str, Density] = {"uniform": uniform, "logit_normal": logit_normal, "mode": mode}


def shifted(t: float, shift: float) -> float:
    """t moved towards noise by a factor, as schedulers do for larger pictures (eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)
