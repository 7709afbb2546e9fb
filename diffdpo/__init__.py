"""Aligns generative models with human preferences: one Bradley–Terry core for images and text.

    import diffdpo
    result = diffdpo.train_images(dataset=pairs, pipeline=pipeline, rank=4, output_dir="runs/mine")

The names in ``__all__`` are the public API. Each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffdpo.commands.api import evaluate, train_images, train_text
    from diffdpo.data.image_formats import IMAGE_FORMATS
    from diffdpo.data.text import TEXT_FORMATS
    from diffdpo.engine.callbacks import Callback
    from diffdpo.engine.watch.evals import Wish
    from diffdpo.errors import UserError
    from diffdpo.losses import LOSSES, preference_loss
    from diffdpo.metrics import REWARDS
    from diffdpo.preference import preference_probability
    from diffdpo.ranking import fit_bradley_terry

__all__ = [
    "IMAGE_FORMATS",
    "LOSSES",
    "REWARDS",
    "TEXT_FORMATS",
    "Callback",
    "UserError",
    "Wish",
    "evaluate",
    "fit_bradley_terry",
    "preference_loss",
    "preference_probability",
    "train_images",
    "train_text",
]
# Imported on first use: ``import diffdpo`` alone must not load torch, diffusers and transformers,
# which takes seconds, nor may the command line before it has read its flags.
HOMES = {
    "evaluate": "diffdpo.commands.api",
    "train_images": "diffdpo.commands.api",
    "train_text": "diffdpo.commands.api",
    "fit_bradley_terry": "diffdpo.ranking",
    "preference_probability": "diffdpo.preference",
    "preference_loss": "diffdpo.losses",
    "LOSSES": "diffdpo.losses",
    "REWARDS": "diffdpo.metrics",
    "IMAGE_FORMATS": "diffdpo.data.image_formats",
    "TEXT_FORMATS": "diffdpo.data.text",
    "UserError": "diffdpo.errors",
    "Callback": "diffdpo.engine.callbacks",
    "Wish": "diffdpo.engine.watch.evals",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return installed_version()
    if name not in HOMES:
        raise AttributeError(f"module 'diffdpo' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def installed_version() -> str:
    """The version of the installed package."""
    # Imported here: it takes longer than all that a command needs before it can answer Ctrl-C.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("diffdpo")
    except PackageNotFoundError:  # a checkout that is not installed
        return "unknown"
