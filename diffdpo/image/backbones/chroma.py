"""Chroma: Flux without its guidance and its pooled text, under T5 alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from diffusers import ChromaPipeline, ChromaTransformer2DModel
from diffusers.models.transformers.transformer_chroma import ChromaSingleTransformerBlock
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.flux import Flux
from diffdpo.image.backbones.latent_transformer import LatentTransformer
from diffdpo.image.backbones.packing import pack, positions, unpack
from diffdpo.reference import unwrapped


class Chroma(LatentTransformer):
    """Rectified flow (Lodestone 2025). The pipeline's mask is of numbers, 1 for a real token, and
    attention adds it: padding is less seen, not hidden. It is trained as it is sampled."""

    pipeline_class = ChromaPipeline
    network_class = ChromaTransformer2DModel
    load_options: ClassVar = Flux.load_options
    lora_targets: ClassVar = Flux.lora_targets
    prompt_outputs: ClassVar = {"tokens_NLD": 0, "bias_NL": 2}
    negative_outputs: ClassVar = {"tokens_NLD": 3, "bias_NL": 5}
    channels_per_latent: ClassVar = Flux.channels_per_latent

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        width = text_configs["text_encoder"].d_model
        return {"tokens_NLD": torch.empty(1, 2, width), "bias_NL": torch.empty(1, 2)}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        height, width = noisy.shape[-2:]
        tokens_NLD, packed, bias_NL = condition["tokens_NLD"], pack(noisy), condition["bias_NL"]
        bias = torch.cat([bias_NL, bias_NL.new_ones(packed.shape[:2])], dim=1)
        with bias_under_checkpointing(unwrapped(network), bias):
            output = network(
                hidden_states=packed,
                timestep=timestep_N,
                encoder_hidden_states=tokens_NLD,
                txt_ids=torch.zeros(tokens_NLD.shape[1], 3, device=noisy.device),
                img_ids=positions(height, width, noisy.device),
                attention_mask=bias,
                return_dict=False,
            )[0]
        return unpack(output, height, width)


@contextmanager
def bias_under_checkpointing(network: Any, bias: Tensor) -> Iterator[None]:
    """Inside, single blocks get the bias under gradient checkpointing too, where the network leaves
    it out: the policy would be another network than its reference."""
    checkpoint = getattr(network, "_gradient_checkpointing_func", None)
    if checkpoint is None:
        yield
        return

    def with_bias(block: Any, *inputs: Any) -> Any:
        is_single = isinstance(block, ChromaSingleTransformerBlock)
        return checkpoint(block, *inputs, *([bias] if is_single else []))

    network._gradient_checkpointing_func = with_bias
    try:
        yield
    finally:
        network._gradient_checkpointing_func = checkpoint
