"""The flags about pictures in the prompts of image–text models, under LLaMA-Factory's names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.flags import flag

SEEN = ["media_dir", "image_max_pixels", "image_min_pixels"]


@dataclass(frozen=True)
class SeenSettings(BaseSettings):
    """Where pictures lie, and how large they are read; in training and in evaluation."""

    media_dir: str | None = flag(
        None, "the folder of pictures that rows name; default: that of the data", group="data"
    )
    image_max_pixels: int | None = flag(
        None,
        "pictures of more pixels are made smaller; default: as the model's processor does",
        group="data",
        least=1,
    )
    image_min_pixels: int | None = flag(
        None, "pictures of fewer pixels are made larger; the same", group="data", least=1
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.media_dir and not Path(self.media_dir).is_dir():
            lines.append(f"--media_dir {self.media_dir}: no such folder")
        least, most = self.image_min_pixels, self.image_max_pixels
        if least and most and least > most:
            lines.append(f"--image_min_pixels {least} is more than --image_max_pixels {most}")
        return lines


@dataclass(frozen=True)
class PictureSettings(SeenSettings):
    """Where pictures lie, how large they are read, and whether what reads them is trained."""

    freeze_vision_tower: bool = flag(
        False,
        "train the language model of an image–text model alone, as a LoRA always does; left out: a"
        " full fine-tune trains all of it",
        group="model",
    )

    @property
    def about_pictures(self) -> list[str]:
        """The flags of these that are given."""
        names = [*SEEN, "freeze_vision_tower"]
        return [f"--{name}" for name in names if getattr(self, name) not in (None, False)]
