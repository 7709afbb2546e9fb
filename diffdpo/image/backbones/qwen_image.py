"""Qwen-Image: two streams over packed patches and the embeddings of Qwen2.5-VL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.conditions import MASK, Condition, padded
from diffdpo.image.backbones.latent_transformer import text_width
from diffdpo.image.backbones.packing import pack, unpack
from diffdpo.image.backbones.qwen_latents import QwenLatents


class QwenImage(QwenLatents):
    """Rectified flow (Wu et al. 2025, arXiv 2508.02324)."""

    pipeline_class = QwenImagePipeline
    network_class = QwenImageTransformer2DModel
    # Both streams, that of the text as well.
    lora_targets: ClassVar = (
        *("to_k", "to_q", "to_v", "to_out.0"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
    )
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    empty_prompt: ClassVar = " "  # its authors lead away from it
    fixed_length: ClassVar = False
    adds_special_tokens: ClassVar = False

    def before_prompt(self) -> str:
        before: str = self.pipeline.prompt_template_encode.split("{}")[0]
        return before

    def prompt_limits(self) -> dict[str, int]:
        # The template's tokens are read and then dropped.
        dropped = self.pipeline.prompt_template_encode_start_idx
        return {name: limit + dropped for name, limit in super().prompt_limits().items()}

    def condition_of(self, outputs: Mapping[str, Any]) -> Condition:
        return padded("tokens_NLD", outputs["tokens_NLD"])

    @classmethod
    def check_network(cls, config: Any, vae_config: Any, text_configs: Mapping[str, Any]) -> None:
        super().check_network(config, vae_config, text_configs)
        if config.guidance_embeds:
            raise UserError(
                "the transformer takes the guidance scale as a condition (guidance_embeds), which"
                " is not supported"
            )

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        width = text_width(text_configs)
        return padded("tokens_NLD", torch.empty(1, 2, width))

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        height, width = noisy.shape[-2:]
        # With a mask even where nothing is padded: what an item gives must not depend on its batch.
        output = network(
            hidden_states=pack(noisy),
            timestep=timestep_N,
            encoder_hidden_states=condition["tokens_NLD"],
            encoder_hidden_states_mask=condition[MASK],
            img_shapes=[[(1, height // 2, width // 2)]] * len(noisy),
            return_dict=False,
        )[0]
        return unpack(output, height, width)

    def sampling_options(self, guidance: float, count: int = 1) -> dict[str, Any]:
        # Without a negative prompt the pipeline does not guide.
        negative = {"negative_prompt": [self.empty_prompt] * count} if guidance > 1 else {}
        return {"true_cfg_scale": guidance, **negative}
