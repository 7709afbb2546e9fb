"""How images and clips of a pair are opened, flipped and cropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from PIL import Image

from diffdpo.data.cells import Find
from diffdpo.data.decode import LIMITS, Limits, open_image
from diffdpo.draws import Purpose, generator
from diffdpo.image.pictures.clips import Clip, open_clip
from diffdpo.image.pictures.pixels import Augmentation
from diffdpo.image.pictures.side_columns import SideSettings

Picture = Image.Image | Clip


@dataclass(frozen=True)
class FrameSettings:
    """Settings of crops, flips, ties and labels."""

    seed: int
    resolution: int
    random_crop: bool = False
    flip: bool = False
    ties: str = "drop"
    random_labels: bool = False
    limits: Limits = LIMITS
    beside: SideSettings = SideSettings()
    num_frames: int | None = None  # of clips; None: pictures alone are read

    def open(self, cell: Any, find: Find) -> Picture:
        """The picture or clip in a cell. Raises BadImage."""
        if self.num_frames is None:
            return open_image(cell, self.resolution, self.limits, find)
        return open_clip(cell, self.num_frames, self.resolution, self.limits, find)

    def augmentation(self, pair: int, visit: int) -> Augmentation:
        """The flip and crop of both images of a pair at this visit."""
        flip = self.flip and generator(self.seed, Purpose.FLIP, pair, visit).random() < 0.5
        if not self.random_crop:
            return Augmentation(flip)
        top, left = generator(self.seed, Purpose.CROP, pair, visit).random(2)
        return Augmentation(flip, float(top), float(left))
