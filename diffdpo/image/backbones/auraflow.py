"""AuraFlow: double and single blocks under UMT5, with positions that are learnt."""

from __future__ import annotations

import math
from typing import ClassVar

from diffusers import AuraFlowPipeline, AuraFlowTransformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.grid_transformer import GridTransformer


class AuraFlow(GridTransformer):
    """Rectified flow (Fal 2024). Its network sees padding, as zeros."""

    pipeline_class = AuraFlowPipeline
    network_class = AuraFlowTransformer2DModel
    lora_targets: ClassVar = (
        *("to_k", "to_q", "to_v", "to_out.0"),
        *("add_k_proj", "add_q_proj", "add_v_proj", "to_add_out"),
    )
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    negative_outputs: ClassVar = {"tokens_NLD": 2}
    undone: ClassVar = ()

    @property
    def native_resolution(self) -> int:
        return self.native  # its configuration names the size of an earlier stage of training

    @property
    def largest_resolution(self) -> float:
        # Further positions would be taken from the other end of the table.
        rows = math.isqrt(self.network.config.pos_embed_max_size)
        return rows * self.pixel_factor * self.patch

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        return network(
            noisy,
            encoder_hidden_states=condition["tokens_NLD"],
            timestep=timestep_N,
            return_dict=False,
        )[0]
