"""Z-Image: one stream of picture and text, which a layer of Qwen3 embeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.chat import MARK, before_mark, user_message
from diffdpo.image.backbones.conditions import Condition, padded, rows_of
from diffdpo.image.backbones.latent_transformer import LatentTransformer


class ZImage(LatentTransformer):
    """A flow whose network counts from noise to picture (Tongyi 2025, arXiv 2511.22699)."""

    pipeline_class = ZImagePipeline
    network_class = ZImageTransformer2DModel
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    guidance_off: ClassVar = 0.0  # it adds the scaled difference to the prediction under the prompt
    adds_special_tokens: ClassVar = False

    def before_prompt(self) -> str:
        return before_mark(self.pipeline.tokenizer, user_message(MARK))

    def condition_of(self, outputs: Mapping[str, Any]) -> Condition:
        return padded("tokens_NLD", outputs["tokens_NLD"])

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        # A list of items, each of one frame and with as many tokens as its prompt has.
        outputs = network(
            list(noisy.unsqueeze(2)),
            1 - timestep_N,
            [row["tokens_NLD"] for row in rows_of(condition)],
            return_dict=False,
        )[0]
        return -torch.stack(outputs).squeeze(2)
