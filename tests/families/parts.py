"""The parts of tiny pipelines, random and made from configurations."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from tests.factory import text_config, tokenizer

clip_tokenizer = tokenizer


def clip(width: int = 16, projection: int = 16) -> CLIPTextModel:
    return CLIPTextModel(text_config(width, projection))


def clip_with_projection(width: int = 16, projection: int = 16) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(text_config(width, projection))


def t5_tokenizer() -> T5Tokenizer:
    """Single letters, in the manner of sentencepiece."""
    pieces = ["<pad>", "</s>", "<unk>", "▁", *string.printable[:95]]
    return T5Tokenizer(vocab=[(piece, -float(n)) for n, piece in enumerate(pieces)], extra_ids=0)


def t5(width: int = 32, kind: Any = T5EncoderModel, config: Any = T5Config) -> Any:
    return kind(
        config(
            vocab_size=128, d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )  # fmt: skip


def gemma_tokenizer() -> GemmaTokenizer:
    """Single letters."""
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.printable[:95]]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    return GemmaTokenizer(vocab=vocabulary, add_bos_token=True)


def gemma(width: int = 16) -> Gemma2Model:
    return Gemma2Model(
        Gemma2Config(
            vocab_size=128, hidden_size=width, intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8,
            max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    )  # fmt: skip


CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


WORDS = (
    *("Describe", " the", " image", " by", " detailing", " color", " shape", " size", " texture"),
    *(" quantity", " text", " spatial", " relationships", " of", " objects", " and"),
    *(" background", "system", "user", "assistant"),
)


def qwen_tokenizer(chat: str = CHAT) -> Qwen2Tokenizer:
    """Single bytes, the marks of a conversation, and the words of templates: these have as many
    tokens as in the published models, some of which pipelines count on."""
    symbols = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made = Qwen2Tokenizer(
        vocab={symbol: index for index, symbol in enumerate(symbols)},
        merges=[],
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=chat,
    )
    made.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    return made


def qwen3(kind: Any, layers: int, width: int = 16) -> Any:
    return kind(
        Qwen3Config(
            vocab_size=300, hidden_size=width, intermediate_size=16, num_hidden_layers=layers,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, tie_word_embeddings=True,
        )
    )  # fmt: skip


def qwen_vl(width: int = 16) -> Qwen2_5_VLForConditionalGeneration:
    text = {
        "vocab_size": 300, "hidden_size": width, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
        "out_hidden_size": width, "fullatt_block_indexes": [0],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def qwen3_vl(layers: int, width: int = 16) -> Qwen3VLModel:
    text = {
        "vocab_size": 300, "hidden_size": width, "intermediate_size": 16,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8, "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]},
    }  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2,
        "out_hidden_size": width, "deepstack_visual_indexes": [0], "num_position_embeddings": 16,
    }  # fmt: skip
    return Qwen3VLModel(Qwen3VLConfig(text_config=text, vision_config=vision))


def mistral(layers: int, width: int = 16) -> Mistral3ForConditionalGeneration:
    text = {
        "model_type": "mistral", "vocab_size": 300, "hidden_size": width, "intermediate_size": 16,
        "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1,
        "head_dim": 8,
    }  # fmt: skip
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "image_size": 32,
    }  # fmt: skip
    return Mistral3ForConditionalGeneration(Mistral3Config(vision_config=vision, text_config=text))


def flux_2_autoencoder() -> AutoencoderKLFlux2:
    """Four pixels a cell of the network along a side, with statistics that are none of a start."""
    made = AutoencoderKLFlux2(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=32,
    )
    made.bn.running_mean.copy_(torch.linspace(-1, 1, 16))
    made.bn.running_var.copy_(torch.linspace(0.5, 2, 16))
    return made


def flux_2_network(guidance: bool) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=48,
        timestep_guidance_channels=16,
        mlp_ratio=2.0,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=guidance,
    )


def flux_2_unpacked(sampled: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    rows, columns = torch.arange(shape[1]), torch.arange(shape[2])
    places = torch.cartesian_prod(torch.arange(1), rows, columns, torch.arange(1))
    return Flux2Pipeline._unpack_latents_with_ids(sampled, places.expand(len(sampled), -1, -1))


def qwen_autoencoder() -> AutoencoderKLQwenImage:
    """Two pixels a cell along a side, four channels with a mean and a deviation each."""
    return AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, -0.4], latents_std=[0.5, 1.0, 1.5, 2.0],
    )  # fmt: skip


def autoencoder_of_eight(channels: int = 4, **config: Any) -> AutoencoderKL:
    """Eight pixels a cell, as pipelines that do not ask their autoencoder take for granted."""
    return autoencoder(
        channels,
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **config,
    )


def autoencoder(channels: int = 16, **config: Any) -> AutoencoderKL:
    """Two pixels a cell along a side, with a shift and a scale."""
    return AutoencoderKL(
        **{
            "block_out_channels": (8, 8),
            "down_block_types": ("DownEncoderBlock2D",) * 2,
            "up_block_types": ("UpDecoderBlock2D",) * 2,
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "latent_channels": channels,
            "sample_size": 32,
            "scaling_factor": 1.5,
            "shift_factor": 0.06,
            **config,
        }
    )


def flow_scheduler(**config: Any) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **config})


def shaken(pipeline: Any, network: str = "transformer") -> Any:
    """The pipeline, in which no weight of the network is zero: every input then has an effect."""
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in getattr(pipeline, network).parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
