"""What both image commands fill in: the bundled model and pairs, the model's own resolution."""

from __future__ import annotations

from typing import Any

from diffdpo.data.bundled import bundled
from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.settings import ImageDataSettings


def name_bundled(settings: ImageDataSettings) -> None:
    """Where no model is named, the bundled one and its pairs. Raises UserError for a model without
    data."""
    settings.dataset_name = settings.dataset_name or settings.train_data_dir
    if settings.pretrained_model_name_or_path is None:
        settings.pretrained_model_name_or_path = bundled("assets/emoji-pipeline")
        settings.dataset_name = settings.dataset_name or bundled("assets/emoji-pairs")
    if settings.dataset_name is None:
        raise UserError(
            "--dataset_name is needed beside a model: a hub id, folder or file of preference pairs"
        )


def hub_options(settings: ImageDataSettings) -> dict[str, Any]:
    """Which version of a model, and where downloads are kept."""
    return {
        "revision": settings.revision,
        "variant": settings.variant,
        "cache_dir": settings.cache_dir,
    }


def resolve_resolution(settings: ImageDataSettings, backbone: Backbone) -> None:
    """The model's own resolution, or a check of the one asked for."""
    settings.resolution = settings.resolution or backbone.native_resolution
    factor = backbone.pixel_factor
    if settings.resolution % factor:
        near = max(factor, round(settings.resolution / factor) * factor)
        raise UserError(
            f"--resolution {settings.resolution} is not a multiple of {factor}; take {near}"
        )
