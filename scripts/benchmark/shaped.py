"""A pipeline of random weights in a given shape, made on the device that is to run it."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from diffdpo.image.backbones import family_of
from scripts.benchmark.image_work import SD1_SCHEDULE, byte_tokenizer
from scripts.benchmark.shapes import Shape

POSITIONS = 77  # of CLIP


def pipeline(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """The whole pipeline on ``device``: the network in ``dtype``, the rest in float32."""
    torch.manual_seed(0)
    family = family_of(shape.family)
    words = byte_tokenizer(POSITIONS)
    parts: dict[str, Any] = {"scheduler": scheduler(shape)}
    with device:
        parts |= {"vae": autoencoder(shape), family.part: network(shape, dtype)}
        for number, config in enumerate(shape.clips):
            end = "" if number == 0 else f"_{number + 1}"
            parts[f"text_encoder{end}"] = clip(shape, number, config, len(words))
            parts[f"tokenizer{end}"] = words
        if shape.t5 is not None:
            end = f"_{len(shape.clips) + 1}"
            letters = letter_tokenizer()
            third = T5Config(vocab_size=len(letters), feed_forward_proj="gated-gelu", **shape.t5)
            parts |= {f"text_encoder{end}": T5EncoderModel(third), f"tokenizer{end}": letters}
    return family.pipeline_class(**parts, **options(family))


def options(family: Any) -> dict[str, Any]:
    """What the family's pipeline is loaded with, and the parts that no training needs."""
    given = dict(family.load_options)
    if family.__name__ == "StableDiffusion":
        given["feature_extractor"] = None
    return given


def network(shape: Shape, dtype: torch.dtype) -> Any:
    """The network alone, in ``dtype``, on the device of the context."""
    before = torch.get_default_dtype()
    # So made, and not converted: twelve billion weights in float32 leave a card no room.
    torch.set_default_dtype(dtype)
    try:
        return family_of(shape.family).network_class(**shape.network)
    finally:
        torch.set_default_dtype(before)


def autoencoder(shape: Shape) -> AutoencoderKL:
    """The published autoencoder's shape."""
    blocks = len(shape.vae["block_out_channels"])
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        **({"latent_channels": 4} | shape.vae),
    )


def clip(shape: Shape, number: int, config: dict[str, Any], vocabulary: int) -> Any:
    """A text encoder of CLIP, with the projection where the pipeline has one."""
    width = config["hidden_size"]
    full = CLIPTextConfig(
        vocab_size=vocabulary,
        max_position_embeddings=POSITIONS,
        projection_dim=width,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
        **({"intermediate_size": 4 * width} | config),
    )
    projects = shape.family == "StableDiffusion3Pipeline" or number > 0
    return (CLIPTextModelWithProjection if projects else CLIPTextModel)(full)


def letter_tokenizer() -> T5Tokenizer:
    """Single letters, in the manner of sentencepiece."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    pieces = ["<pad>", "</s>", "<unk>", "▁", *letters]
    return T5Tokenizer(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)], extra_ids=0)


def scheduler(shape: Shape) -> Any:
    """Stable Diffusion's, or a flow's with the shift of Stable Diffusion 3; Flux chooses its shift
    by the resolution."""
    if not shape.is_flow:
        return DDIMScheduler(
            **SD1_SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1
        )
    by_size = shape.family == "FluxPipeline"
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=by_size, base_shift=0.5, max_shift=1.15
    )
