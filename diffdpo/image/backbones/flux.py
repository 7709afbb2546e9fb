"""Flux.1-dev: a transformer over packed patches, one CLIP encoder's pooled vector, and T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_transformer import LatentTransformer
from diffdpo.image.backbones.packing import pack, positions, unpack
from diffdpo.reference import unwrapped


class Flux(LatentTransformer):
    """Rectified flow (Black Forest Labs 2024). The guidance scale is an input of the network; it is
    trained at 1, that of no guidance, and may be sampled at another."""

    pipeline_class = FluxPipeline
    network_class = FluxTransformer2DModel
    load_options: ClassVar = {"image_encoder": None, "feature_extractor": None}
    encoder_names: ClassVar = ("vae", "text_encoder", "text_encoder_2")
    # Both streams, and what the single blocks have besides attention.
    lora_targets: ClassVar = (
        *("to_k", "to_q", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
        *("ff_context.net.0.proj", "ff_context.net.2", "proj_mlp", "proj_out"),
    )
    prompt_outputs: ClassVar = {"tokens_NLD": 0, "pooled_ND": 1}
    channels_per_latent: ClassVar = 4

    @classmethod
    def distilled(cls, index: Mapping[str, Any], network_config: Any, scheduler: Any) -> str:
        dynamic = scheduler.config.get("use_dynamic_shifting", False)
        if network_config["guidance_embeds"] or dynamic:
            return ""
        return "it has no guidance embedding and no shift by resolution, as Flux.1-schnell"

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        return {
            "tokens_NLD": torch.empty(1, 2, text_configs["text_encoder_2"].d_model),
            "pooled_ND": torch.empty(1, text_configs["text_encoder"].hidden_size),
        }

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        height, width = noisy.shape[-2:]
        tokens_NLD = condition["tokens_NLD"]
        embeds = unwrapped(network).config.guidance_embeds
        # The network itself multiplies both numbers by 1000.
        output = network(
            hidden_states=pack(noisy),
            timestep=timestep_N,
            guidance=torch.full_like(timestep_N, cls.guidance_off) if embeds else None,
            encoder_hidden_states=tokens_NLD,
            pooled_projections=condition["pooled_ND"],
            txt_ids=torch.zeros(tokens_NLD.shape[1], 3, device=noisy.device),
            img_ids=positions(height, width, noisy.device),
            return_dict=False,
        )[0]
        return unpack(output, height, width)
