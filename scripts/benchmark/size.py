"""Size of the benchmark's models and data, and their folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Size:
    """Shapes of the models and of the data."""

    unet_channels: tuple[int, ...] = (64, 128, 256, 256)
    unet_heads: int = 2
    vae_channels: tuple[int, ...] = (32, 32, 64, 64)
    text_width: int = 128  # of the prompts' encoder, and of the UNet's cross attention
    text_layers: int = 4
    prompt_positions: int = 77
    resolution: int = 256  # of images and training, in pixels
    pairs: int = 128
    captions: int = 16
    llama_width: int = 384
    llama_layers: int = 6
    llama_heads: int = 6
    llama_ffn: int = 1024
    vocabulary: int = 32_000
    rows: int = 128
    prompt_tokens: int = 84  # median
    chosen_tokens: int = 245  # median
    rejected_tokens: int = 251  # median
    max_length: int = 512  # of prompt and completion, in tokens


FULL = Size()
SMALL = Size(
    unet_channels=(32, 32),
    vae_channels=(32, 32),
    text_width=32,
    text_layers=1,
    prompt_positions=16,
    resolution=32,
    pairs=16,
    captions=4,
    llama_width=32,
    llama_layers=1,
    llama_heads=2,
    llama_ffn=48,
    vocabulary=600,
    rows=16,
    prompt_tokens=6,
    chosen_tokens=10,
    rejected_tokens=12,
    max_length=32,
)


@dataclass(frozen=True)
class Work:
    """Folders of the pipeline, the image pairs and the language model, and the file of text
    rows."""

    folder: Path
    size: Size

    @property
    def pipeline(self) -> Path:
        """A diffusers pipeline."""
        return self.folder / "pipeline"

    @property
    def pairs(self) -> Path:
        """Parquet with Pick-a-Pic's columns."""
        return self.folder / "pairs"

    @property
    def model(self) -> Path:
        """A causal language model with its tokenizer."""
        return self.folder / "model"

    @property
    def rows(self) -> Path:
        """JSON lines with prompt, chosen and rejected."""
        return self.folder / "rows.jsonl"
