"""ADD A ROW: the models whose shapes are measured on a card. Networks, autoencoders and CLIP
encoders have the numbers of the published configurations; weights are random.

T5 has its width and one layer: it runs before the steps that are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from diffdpo.errors import UserError, short

Config = dict[str, Any]
Row = TypeVar("Row")

CLIP_L = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20}
T5 = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 1}
VAE: Config = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2}
SD3_VAE = VAE | {"latent_channels": 16, "scaling_factor": 1.5305, "shift_factor": 0.0609}
FLUX_VAE = VAE | {"latent_channels": 16, "scaling_factor": 0.3611, "shift_factor": 0.1159}
# With as few weights as the same latents and embeddings allow.
THIN_CLIP = {"num_hidden_layers": 1, "intermediate_size": 32}
THIN_T5 = {"d_ff": 32, "num_heads": 1}
THIN_VAE = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 4}
NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}


@dataclass(frozen=True)
class Shape:
    """A model and how it is trained here."""

    name: str
    family: str  # a row of BACKBONES
    resolution: int
    pairs: int  # a step; as many as a card of 80 GB is sure to hold
    tokens: int  # of an encoded prompt
    network: Config
    vae: Config
    clips: tuple[Config, ...]  # in the pipeline's order
    t5: Config | None = None
    lora_checkpointing: bool = False
    thin: Config = field(default_factory=dict)  # replaces numbers of the network

    @property
    def is_flow(self) -> bool:
        """Whether it is a transformer with a flow's scheduler."""
        return self.t5 is not None


SHAPES = [
    Shape(
        "sd15",
        "StableDiffusionPipeline",
        512,
        8,
        77,
        {
            "sample_size": 64,
            "cross_attention_dim": 768,
            "attention_head_dim": 8,
            "block_out_channels": (320, 640, 1280, 1280),
        },
        VAE | {"scaling_factor": 0.18215},
        (CLIP_L,),
        thin={"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "attention_head_dim": 1},
    ),
    Shape(
        "sdxl",
        "StableDiffusionXLPipeline",
        1024,
        2,
        77,
        {
            "sample_size": 128,
            "cross_attention_dim": 2048,
            "attention_head_dim": (5, 10, 20),
            "block_out_channels": (320, 640, 1280),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 2, 10),
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        VAE | {"scaling_factor": 0.13025},
        (CLIP_L, CLIP_G),
        thin={
            "block_out_channels": (8, 8, 8),
            "norm_num_groups": 4,
            "attention_head_dim": (1, 1, 1),
            "transformer_layers_per_block": (1, 1, 1),
        },
    ),
    Shape(
        "sd35m",
        "StableDiffusion3Pipeline",
        1024,
        2,
        77 + 256,
        {
            "sample_size": 128,
            "patch_size": 2,
            "in_channels": 16,
            "out_channels": 16,
            "num_layers": 24,
            "attention_head_dim": 64,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "caption_projection_dim": 1536,
            "pooled_projection_dim": 2048,
            "pos_embed_max_size": 384,
            "dual_attention_layers": tuple(range(13)),
            "qk_norm": "rms_norm",
        },
        SD3_VAE | NO_QUANT,
        (CLIP_L, CLIP_G),
        T5,
        thin={
            "num_layers": 1,
            "attention_head_dim": 8,
            "num_attention_heads": 1,
            "caption_projection_dim": 8,
            "dual_attention_layers": (0,),
        },
    ),
    Shape(
        "flux",
        "FluxPipeline",
        1024,
        1,
        512,
        {
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
            "axes_dims_rope": (16, 56, 56),
        },
        FLUX_VAE | NO_QUANT,
        (CLIP_L,),
        T5,
        lora_checkpointing=True,
        thin={
            "num_layers": 1,
            "num_single_layers": 1,
            "attention_head_dim": 16,
            "num_attention_heads": 1,
            "axes_dims_rope": (4, 4, 8),
        },
    ),
]
BY_NAME = {shape.name: shape for shape in SHAPES}


def thin(shape: Shape, resolution: int) -> Shape:
    """The same latents, embeddings and parts with next to no weights, at another resolution."""
    clips = tuple(clip | THIN_CLIP for clip in shape.clips)
    network = shape.network | shape.thin
    if "sample_size" in network:
        network["sample_size"] = resolution // 8
    return replace(
        shape,
        resolution=resolution,
        pairs=min(shape.pairs, 2),
        network=network,
        vae=shape.vae | THIN_VAE,
        clips=clips,
        t5=None if shape.t5 is None else shape.t5 | THIN_T5,
    )


def row_of(name: str, table: Mapping[str, Row]) -> Row:
    """The row of that name. Raises UserError where there is none."""
    if name not in table:
        raise UserError(f"--shapes {short(name)}: no such row; known: {', '.join(table)}")
    return table[name]
