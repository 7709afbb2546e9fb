"""A tiny random pipeline for every family: ``tiny()`` in the module named as that of the backbone.

``tiny(distilled=True)`` gives a distilled one, in families where that is told by configuration.
A module may also name SIDE, the side of its pictures in pixels; EMBEDS_GUIDANCE, where guidance is
an input of the network; ``unpacked``, which makes of a pipeline's latents those of ``predict``;
``encoded``, what its autoencoder gives; and ``rescaled``, what it does to a guided prediction.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from diffdpo.image.backbones import BACKBONES

SIDE = 32


def factory(family: str) -> Any:
    """The module that makes tiny pipelines of a family."""
    return import_module(f"{__name__}.{BACKBONES[family][0]}")


def side(family: str) -> int:
    """The side of test pictures, in pixels."""
    return getattr(factory(family), "SIDE", SIDE)
