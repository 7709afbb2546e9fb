"""Cheap figures of a picture that show by their direction how a reward was gamed: whiter, more
colourful, further from the reference than the preference asks for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

BRIGHT = 250  # of 255: a value at which a channel is as good as clipped


def clipped_share(pictures: Sequence[Image.Image]) -> np.ndarray:
    """(N,): the share of a picture's 8-bit values, of all three channels, that are 250 or more."""
    return np.array([(as_bytes(picture) >= BRIGHT).mean() for picture in pictures])


def distance(pictures: Sequence[Image.Image], others: Sequence[Image.Image]) -> np.ndarray:
    """(N,): the mean absolute difference of two pictures' 8-bit values, from 0 to 255.

    Of pictures from one seed it is how far a policy went from its reference.
    """
    return np.array(
        [
            np.abs(as_bytes(one).astype(np.float64) - as_bytes(other)).mean()
            for one, other in zip(pictures, others, strict=True)
        ]
    )


def as_bytes(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) in uint8."""
    return np.asarray(picture.convert("RGB"))
