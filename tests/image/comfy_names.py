"""The names of layers for which ComfyUI looks in a LoRA file, as facts of its own tables of keys.

They are ``model_lora_keys_unet`` in its comfy/lora.py, and ``unet_to_diffusers``,
``mmdit_to_diffusers`` and ``flux_to_diffusers`` in its comfy/utils.py.
"""

from __future__ import annotations

from itertools import product

# After the name that ComfyUI gives a layer, in the form of kohya and in that of diffusers.
KOHYA_ENDS = {".lora_up.weight", ".lora_down.weight", ".alpha"}
DIFFUSERS_ENDS = {".lora_A.weight", ".lora_B.weight"}

ATTENTION = [f"{a}.{layer}" for a, layer in product(("attn1", "attn2"), ("to_q", "to_k", "to_v"))]
ATTENTION += ["attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]
RESNET = ["conv1", "conv2", "time_emb_proj", "conv_shortcut"]
BASIC = ["conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"]
BASIC += ["add_embedding.linear_1", "add_embedding.linear_2"]

JOINT = ["to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"]
FEED = [f"{ff}.net.{layer}" for ff, layer in product(("ff", "ff_context"), ("0.proj", "2"))]
# Beside the blocks of a transformer.
TOP = ["context_embedder", "proj_out", "norm_out.linear"]
TOP += [
    f"time_text_embed.{kind}_embedder.linear_{n}"
    for kind, n in product(("timestep", "text"), (1, 2))
]


def unet_layers(down: list[int], up: list[int], middle: int, resnets: int) -> set[str]:
    """The layers of a UNet in the names of diffusers; ``down`` and ``up`` are the transformers in
    each attention of each block, of which a block going up has one more."""
    found = set(BASIC)
    places = [(f"down_blocks.{n}", depth, resnets) for n, depth in enumerate(down)]
    places += [(f"up_blocks.{n}", depth, resnets + 1) for n, depth in enumerate(up)]
    for block, depth, count in [*places, ("mid_block", middle, 2)]:
        found |= {f"{block}.resnets.{n}.{name}" for n, name in product(range(count), RESNET)}
        attentions = range((1 if block == "mid_block" else count) if depth else 0)
        for n in attentions:
            found |= {f"{block}.attentions.{n}.{name}" for name in ("proj_in", "proj_out")}
            inside = f"{block}.attentions.{n}.transformer_blocks"
            found |= {f"{inside}.{t}.{name}" for t, name in product(range(depth), ATTENTION)}
        found |= {f"{block}.{move}samplers.0.conv" for move in ("down", "up")}
    return found


def sd3_layers(blocks: int) -> set[str]:
    """The layers of a joint transformer of Stable Diffusion 3, in the names of diffusers."""
    inside = [*(f"attn.{name}" for name in JOINT), *FEED, "norm1.linear", "norm1_context.linear"]
    inside += [f"attn2.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0")]
    found = {f"transformer_blocks.{n}.{name}" for n, name in product(range(blocks), inside)}
    return found | {*TOP, "pos_embed.proj"}


def flux_layers(double: int, single: int) -> set[str]:
    """The layers of Flux, in the names of diffusers."""
    inside = [*(f"attn.{name}" for name in JOINT), *FEED, "norm1.linear", "norm1_context.linear"]
    alone = ["attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out", "norm.linear"]
    found = {f"transformer_blocks.{n}.{name}" for n, name in product(range(double), inside)}
    found |= {f"single_transformer_blocks.{n}.{name}" for n, name in product(range(single), alone)}
    return found | {*TOP, "x_embedder"}


def kohya_keys(layers: set[str]) -> set[str]:
    """All keys of a file in kohya's form that ComfyUI knows."""
    return {f"lora_unet_{n.replace('.', '_')}{end}" for n, end in product(layers, KOHYA_ENDS)}


def diffusers_keys(layers: set[str]) -> set[str]:
    """All keys of a file in the form of diffusers that ComfyUI knows for a transformer."""
    return {f"transformer.{name}{end}" for name, end in product(layers, DIFFUSERS_ENDS)}
