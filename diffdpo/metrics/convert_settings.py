"""The flags of ``convert_reward``; importing them loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.flags import flag, one_of

# Where the parts come from that the official file does not hold.
BASES = {
    "hpsv2": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "hpsv2.1": "laion/CLIP-ViT-H-14-laion2B-s32B-b79K",
    "laion_aesthetic": "openai/clip-vit-large-patch14",
    "imagereward": "google-bert/bert-base-uncased",
}


@dataclass(frozen=True)
class ConvertSettings(BaseSettings):
    """All flags of ``convert_reward.py``."""

    name: str | None = flag(
        None, f"whose weights they are: {', '.join(BASES)}", group="model", positional=True
    )
    file: str | None = flag(
        None,
        "the official file: HPS_v2_compressed.pt, HPS_v2.1_compressed.pt, ImageReward.pt,"
        " sac+logos+ava1-l14-linearMSE.pth, or its tensors in safetensors",
        group="model",
        positional=True,
    )
    output_dir: str | None = flag(None, "the new folder", group="model", positional=True)
    base: str | None = flag(
        None,
        "folder or hub id of the tokenizer, of laion_aesthetic CLIP's image tower; default: the"
        " one that the weights were trained with",
        group="model",
    )

    def problems(self) -> list[str]:
        lines = super().problems()
        if None in (self.name, self.file, self.output_dir):
            return [*lines, "convert_reward NAME FILE FOLDER: all three are needed"]
        lines += one_of("name", self.name, BASES)
        if not Path(str(self.file)).is_file():
            lines.append(f"--file {self.file}: no such file")
        if Path(str(self.output_dir)).exists():
            lines.append(f"--output_dir {self.output_dir}: is there already; choose another")
        return lines
