"""Which forward process a model is trained by, told by its family and its scheduler."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.process.noise import Diffusion, Flow, Process


def process_for(backbone: Backbone, settings: Any) -> Process:
    """The forward process of a model at the resolution of the ``settings``.

    Raises UserError for settings of flow models where the model is none.
    """
    scheduler, turbo = backbone.pipeline.scheduler, settings.is_turbo
    if backbone.is_flow:
        tokens = backbone.tokens(settings.resolution)
        own = backbone.own_shift(settings.resolution)
        if own is not None and settings.timestep_shift == "auto":
            settings = replace(settings, timestep_shift=str(own))
        return Flow(scheduler, settings, tokens, turbo)
    if given := settings.flow_flags():
        raise UserError(
            f"{' '.join(given)}: for flow models alone, and"
            f" {settings.pretrained_model_name_or_path} is none"
        )
    return Diffusion(scheduler, turbo, settings.timestep_range)
