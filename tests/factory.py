"""Small real models and real image files for the tests, made from configurations; nothing is
downloaded."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

FAMILIES = {"StableDiffusionPipeline": "sd", "StableDiffusionXLPipeline": "sdxl"}


def tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE with the 256 bytes, their end-of-word forms, and no merges."""
    symbols = sorted(ByteLevel.alphabet())
    words = symbols + [s + "</w>" for s in symbols] + ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def text_config(width: int, projection: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=514,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        projection_dim=projection,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )


def autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=32,
        scaling_factor=0.5,
    )


def unet(xl: bool) -> UNet2DConditionModel:
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 32 + 6 * 8,
    }
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        cross_attention_dim=64 if xl else 32,
        **(added if xl else {}),
    )


def scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def make_pipeline(
    folder: Path, family: str = "StableDiffusionPipeline", prediction_type: str = "epsilon"
) -> Path:
    """A pipeline of random weights with the structure of a real one, saved in diffusers format."""
    whole_pipeline(family, prediction_type).save_pretrained(folder)
    return folder


def whole_pipeline(family: str, prediction_type: str = "epsilon") -> Any:
    """A Stable Diffusion pipeline of random weights."""
    torch.manual_seed(0)
    xl = family == "StableDiffusionXLPipeline"
    parts = {
        "vae": autoencoder(),
        "unet": unet(xl),
        "scheduler": scheduler(prediction_type),
        "tokenizer": tokenizer(),
        "text_encoder": CLIPTextModel(text_config(32, 32)),
    }
    if xl:
        parts |= {
            "tokenizer_2": tokenizer(),
            "text_encoder_2": CLIPTextModelWithProjection(text_config(32, 32)),
        }
        return StableDiffusionXLPipeline(**parts, add_watermarker=False)
    parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(**parts)


def picture(seed: int, size: tuple[int, int] = (32, 32)) -> Image.Image:
    """A smooth coloured picture."""
    values = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def pickapic_rows(count: int, ties: int = 0) -> list[dict]:
    """Rows in the Pick-a-Pic schema; the winner stands left and right in turn, the last ``ties``
    are ties."""
    rows = []
    for index in range(count):
        label = 0.5 if index >= count - ties else float(index % 2 == 0)
        images = [encoded(picture(2 * index + side), "JPEG", quality=95) for side in (0, 1)]
        row = {"jpg_0": images[0], "jpg_1": images[1], "label_0": label, "label_1": 1 - label}
        rows.append(
            {
                **row,
                "caption": f"picture {index}",
                "model_0": "dreamlike",
                "model_1": f"m{index % 3}",
            }
        )
    return rows


def make_pairs(folder: Path, count: int = 12, ties: int = 0) -> Path:
    """A parquet data set of image pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(pickapic_rows(count, ties)).to_parquet(folder / "train-00000.parquet")
    return folder


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(pipeline: Path, folder: Path, file: str, **entries: object) -> Path:
    """A copy of a pipeline with other entries in one of its JSON files; None takes one out."""
    shutil.copytree(pipeline, folder)
    config = folder / file
    merged = json.loads(config.read_text()) | entries
    config.write_text(json.dumps({k: v for k, v in merged.items() if v is not None}))
    return folder
