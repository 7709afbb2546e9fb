from __future__ import annotations

from typing import Any

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

from diffdpo.image.backbones.packing import pack, unpack
from tests.families import parts


def tiny(distilled: bool = False) -> Any:
    torch.manual_seed(0)
    network = QwenImageTransformer2DModel(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return parts.shaken(
        QwenImagePipeline(
            transformer=network,
            scheduler=parts.flow_scheduler(
                use_dynamic_shifting=True, max_shift=0.9, shift_terminal=0.02
            ),
            vae=parts.qwen_autoencoder(),
            text_encoder=parts.qwen_vl(),
            tokenizer=parts.qwen_tokenizer(),
        )
    )


def unpacked(sampled: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return QwenImagePipeline._unpack_latents(sampled, 2 * shape[1], 2 * shape[2], 2).squeeze(2)


def rescaled(led: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    norms = [pack(one).norm(dim=-1, keepdim=True) for one in (given, led)]
    return unpack(pack(led) * norms[0] / norms[1], *led.shape[-2:])
