"""How many frames clips have: what a model can have, and what the data have."""

from __future__ import annotations

from dataclasses import replace

from diffdpo.data.cells import BadImage
from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.pictures.clips import first_frames
from diffdpo.image.reading.pairs import ImagePairs

LOOKED_AT = 20  # rows that are tried, to see how long clips are


def check_frames(frames: int, factor: int | None) -> None:
    """Raises UserError for clips of a length that a model cannot have; of pictures ``factor`` is
    None, of clips ``Backbone.frame_factor``."""
    if factor is None and frames > 1:
        raise UserError(f"--num_frames {frames}: the model makes pictures; leave it out")
    if factor and (frames - 1) % factor:
        near = max(1, round((frames - 1) / factor) * factor + 1)
        raise UserError(f"--num_frames {frames} is not a multiple of {factor} plus 1; take {near}")


def settle_frames(pairs: ImagePairs, backbone: Backbone, wanted: int | None) -> None:
    """Let a model of video read clips of so many frames; where None, of as many as the first pair
    has, at most the model's own number."""
    if backbone.frame_factor is None:
        return
    # Looked at in any case: a decoder that is missing shows here.
    there = shortest_clip(pairs, wanted or backbone.native_frames)
    backbone.num_frames = wanted or there - (there - 1) % backbone.frame_factor
    pairs.framing = replace(pairs.framing, num_frames=backbone.num_frames)


def shortest_clip(pairs: ImagePairs, most: int) -> int:
    """The number of frames that both clips of the first readable row have, up to ``most``."""
    limits = pairs.framing.limits
    for row in pairs.rows[:LOOKED_AT]:
        try:
            clips = pairs.stored.images(
                int(row), lambda cell, find: first_frames(cell, most, None, limits, find)
            )
        except BadImage:
            continue
        return min(map(len, clips))
    return 1
