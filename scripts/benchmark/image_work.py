"""The image work: a small Stable Diffusion with random weights, in the proportions of the real one,
and JPEG pairs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from scripts.benchmark.size import Size, Work

SD1_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


def make_image_work(work: Work) -> None:
    """Write pipeline and pairs; the same bytes every time."""
    torch.manual_seed(0)
    words = byte_tokenizer(work.size.prompt_positions)
    StableDiffusionPipeline(
        vae=autoencoder(work.size),
        text_encoder=text_encoder(work.size, len(words)),
        tokenizer=words,
        unet=unet(work.size),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(work.pipeline)  # type: ignore[attr-defined]
    work.pairs.mkdir(parents=True)
    Dataset.from_list(pair_rows(work.size)).to_parquet(work.pairs / "train-00000.parquet")


def unet(size: Size) -> UNet2DConditionModel:
    """Cross attention at every resolution but the lowest, as in Stable Diffusion 1."""
    above = len(size.unet_channels) - 1
    return UNet2DConditionModel(
        sample_size=size.resolution // 2 ** (len(size.vae_channels) - 1),
        block_out_channels=size.unet_channels,
        down_block_types=("CrossAttnDownBlock2D",) * above + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * above,
        layers_per_block=1,
        attention_head_dim=size.unet_heads,  # diffusers' old name for the number of heads
        cross_attention_dim=size.text_width,
    )


def autoencoder(size: Size) -> AutoencoderKL:
    """Four latent channels; each block but the last halves the side."""
    return AutoencoderKL(
        block_out_channels=size.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * len(size.vae_channels),
        up_block_types=("UpDecoderBlock2D",) * len(size.vae_channels),
        layers_per_block=1,
        latent_channels=4,
        sample_size=size.resolution,
    )


def scheduler() -> PNDMScheduler:
    """Stable Diffusion 1's."""
    return PNDMScheduler(**SD1_SCHEDULE, skip_prk_steps=True, steps_offset=1)


def byte_tokenizer(positions: int) -> CLIPTokenizer:
    """CLIP's byte-level BPE without merges."""
    symbols = sorted(ByteLevel.alphabet())
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    numbered = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=numbered, merges=[], model_max_length=positions)


def text_encoder(size: Size, vocabulary: int) -> CLIPTextModel:
    """The prompts' encoder; the tokenizer's last two words begin and end a prompt."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=size.text_width,
            intermediate_size=4 * size.text_width,
            num_hidden_layers=size.text_layers,
            num_attention_heads=2,
            max_position_embeddings=size.prompt_positions,
            projection_dim=size.text_width,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
            pad_token_id=vocabulary - 1,
        )
    )


def pair_rows(size: Size) -> list[dict[str, object]]:
    """Rows in Pick-a-Pic's columns, the winner on either side in turn."""
    random = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for index in range(size.pairs):
        label = float(index % 2)
        row = {"jpg_0": jpeg(random, size.resolution), "jpg_1": jpeg(random, size.resolution)}
        caption = f"picture number {index % size.captions} of a collection"
        rows.append({**row, "caption": caption, "label_0": label, "label_1": 1 - label})
    return rows


def jpeg(random: np.random.Generator, side: int) -> bytes:
    """A picture with large shapes and fine grain."""
    shapes = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).resize(
        (side, side)
    )
    grain = np.asarray(shapes) + random.normal(0, 6, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(grain.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
