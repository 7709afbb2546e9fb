"""Flux.2-dev: a transformer over patches of latents and three layers of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKLFlux2, Flux2Pipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2 import format_input
from torch import Tensor, nn
from torch.nn.functional import pad

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.chat import MARK, before_mark
from diffdpo.image.backbones.checks import check_picture_channels, is_number
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.latent_transformer import LatentTransformer, text_width
from diffdpo.image.backbones.packing import pack, positions

LAYERS = 3  # of the text encoder, side by side in an embedding
MOST_BLOCKS = 48  # of one stream


class Flux2(LatentTransformer):
    """Rectified flow (Black Forest Labs 2025). The guidance scale is an input of the network; it is
    trained at 1, that of no guidance, and may be sampled at another.

    A cell of its latents is a patch of 2 × 2 of the autoencoder's, normalised by the statistics of
    a BatchNorm that is part of the autoencoder.
    """

    pipeline_class: Any = Flux2Pipeline
    network_class = Flux2Transformer2DModel
    vae_class = AutoencoderKLFlux2
    # Both streams of the double blocks; of the single ones the layers before and after attention.
    lora_targets: ClassVar = (
        *("to_k", "to_q", "to_v", "to_out.0", "to_qkv_mlp_proj"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
        *(f"single_transformer_blocks.{n}.attn.to_out" for n in range(MOST_BLOCKS)),
    )
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    patch: ClassVar = 1
    # The pipeline's own depends on its number of steps, at 1024 pixels from 9.5 for 10 of them to
    # 3.2 for 200: the limit is what training can mean.
    training_shift: ClassVar = 3.0
    embeds_guidance: ClassVar[bool] = True

    @property
    def pixel_factor(self) -> int:
        return 2 * super().pixel_factor

    @classmethod
    def latent_channels(cls, vae_config: Any) -> int:
        return 4 * super().latent_channels(vae_config)

    def posterior(self, pixels_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        posterior, norm = self.vae.encode(pixels_NCHW).latent_dist, self.vae.bn
        mean, variance = (
            x.float().view(1, -1, 1, 1) for x in (norm.running_mean, norm.running_var)
        )
        scale = (variance + self.vae_config.batch_norm_eps).sqrt()
        spread = patched(posterior.std.float())
        return (patched(posterior.mean.float()) - mean) / scale, spread / scale

    def before_prompt(self) -> str:
        one = self.pipeline
        return before_mark(one.tokenizer, format_input([MARK], one.system_message)[0])

    @classmethod
    def check_autoencoder(cls, config: Any) -> None:
        what = "vae/config.json"
        check_picture_channels(config)
        if list(config.patch_size) != [2, 2]:
            raise UserError(f"{what}: patch_size {short(config.patch_size)} is not 2, 2")
        if not is_number(config.batch_norm_eps) or config.batch_norm_eps <= 0:
            raise UserError(f"{what}: batch_norm_eps must be positive")

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        width = text_width(text_configs)
        return {"tokens_NLD": torch.empty(1, 2, LAYERS * width)}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        height, width = noisy.shape[-2:]
        tokens_NLD = condition["tokens_NLD"]
        order = torch.arange(tokens_NLD.shape[1], device=noisy.device)
        guidance = torch.full_like(timestep_N, cls.guidance_off) if cls.embeds_guidance else None
        # The network itself multiplies both numbers by 1000. Positions have four axes: picture,
        # row, column, and place in the text.
        output = network(
            hidden_states=noisy.flatten(2).mT,
            timestep=timestep_N,
            guidance=guidance,
            encoder_hidden_states=tokens_NLD,
            txt_ids=pad(order[:, None], (3, 0)),
            img_ids=pad(positions(2 * height, 2 * width, noisy.device), (0, 1)),
            return_dict=False,
        )[0]
        return output.mT.unflatten(2, (height, width))


def patched(latents_NCHW: Tensor) -> Tensor:
    """Patches of 2 × 2 as channels (C, 2, 2): ``(N, 4C, h/2, w/2)``."""
    height, width = latents_NCHW.shape[-2:]
    return pack(latents_NCHW).mT.unflatten(2, (height // 2, width // 2))
