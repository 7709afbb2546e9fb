"""CogVideoX: a transformer over clips and text, and T5; a diffusion model of its own schedule."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.video import VideoTransformer
from diffdpo.reference import unwrapped


class CogVideoX(VideoTransformer):
    """Diffusion over clips (Yang et al. 2024, arXiv 2408.06072). Its positions are added to the
    tokens or, in the larger model, rotate them."""

    pipeline_class = CogVideoXPipeline
    network_class = CogVideoXTransformer3DModel
    vae_class = AutoencoderKLCogVideoX
    is_flow: ClassVar = False
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    native: ClassVar = 480

    @property
    def native_frames(self) -> int:
        return self.network.config.sample_frames

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        if config.patch_size_t is not None or config.ofs_embed_dim is not None:
            raise UserError(
                "the transformer is one of CogVideoX 1.5 (patch_size_t) or begins from a picture"
                " (ofs_embed_dim), which is not supported"
            )
        super().check_network(config, vae_config, text_configs)

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        width = text_configs["text_encoder"].d_model
        return {"tokens_NLD": torch.empty(1, config.max_text_seq_length, width)}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        output = network(
            hidden_states=noisy.transpose(1, 2),  # frames before channels
            timestep=timestep_N,
            encoder_hidden_states=condition["tokens_NLD"],
            image_rotary_emb=rotations(unwrapped(network), noisy),
            return_dict=False,
        )[0]
        return output.transpose(1, 2)


def rotations(network: Any, latents: Tensor) -> tuple[Tensor, Tensor] | None:
    """The rotations of the tokens of such latents, in networks that have them."""
    if not network.config.use_rotary_positional_embeddings:
        return None
    # The pipeline counts in pixels; here a pixel is a cell.
    pipeline = SimpleNamespace(vae_scale_factor_spatial=1, transformer=network)
    frames, height, width = latents.shape[2:]
    return CogVideoXPipeline._prepare_rotary_positional_embeddings(
        pipeline, height, width, frames, latents.device
    )
