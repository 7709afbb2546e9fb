"""CogView4: one stream of picture and text, under GLM-4 and the sizes of pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import CogView4Pipeline, CogView4Transformer2DModel
from torch import Tensor, nn

from diffdpo.image.backbones.conditions import MASK, Condition, by_length
from diffdpo.image.backbones.grid_transformer import GridTransformer
from diffdpo.image.pictures.pixels import CroppedImage

SIZES = ("original_size_N2", "target_size_N2", "crop_N2")


class CogView4(GridTransformer):
    """Rectified flow (Zheng et al. 2024, arXiv 2403.05121, and its successor of 2025)."""

    pipeline_class = CogView4Pipeline
    network_class = CogView4Transformer2DModel
    prompt_outputs: ClassVar = {"tokens_NLD": 0}
    negative_outputs: ClassVar = {"tokens_NLD": 1}
    fixed_length: ClassVar = False
    prompts_at_once: ClassVar = 1  # it would pad them to the longest, and the network sees that
    undone: ClassVar = ()
    side_multiple: ClassVar = 16

    def own_shift(self, resolution: int) -> float | None:
        """Linear in the square root of the number of tokens, as the pipeline computes it."""
        config = self.pipeline.scheduler.config
        if not config.get("use_dynamic_shifting", False):
            return None
        root = math.sqrt(self.tokens(resolution) / config["base_image_seq_len"])
        mu = config["base_shift"] + root * config["max_shift"]
        return mu if config["time_shift_type"] == "linear" else math.exp(mu)

    def condition_of(self, outputs: Mapping[str, Any]) -> Condition:
        # Padded on the left to a multiple of 16, and the network sees that: all tokens are real.
        tokens_NLD = outputs["tokens_NLD"]
        return {"tokens_NLD": tokens_NLD, MASK: torch.ones(tokens_NLD.shape[:2], dtype=torch.bool)}

    def size_condition(self, images: Sequence[CroppedImage], resolution: int) -> Condition:
        """Height and width of each image and of the resolution, and where it was cropped."""
        rows = [
            (image.original_size, (resolution, resolution), image.crop_top_left) for image in images
        ]
        sizes = torch.tensor(rows, dtype=torch.float32).unbind(dim=1)
        return dict(zip(SIZES, sizes, strict=True))

    @classmethod
    def blank_condition(cls, config: Any, text_configs: Mapping[str, Any]) -> Condition:
        sizes = {name: torch.empty(1, 2) for name in SIZES}
        return {**super().blank_condition(config, text_configs), **sizes}

    @classmethod
    def predict(
        cls, network: nn.Module, noisy: Tensor, timestep_N: Tensor, condition: Condition
    ) -> Tensor:
        # The network takes a mask, and adds it to its attention instead of hiding padding. So
        # prompts of one length go together: there are few, for all are multiples of 16.
        outputs, order = [], []
        for rows, part in by_length(condition):
            original, target, crop = (part[name] for name in SIZES)
            outputs += network(
                hidden_states=noisy[rows],
                encoder_hidden_states=part["tokens_NLD"],
                timestep=1000 * timestep_N[rows],
                original_size=original,
                target_size=target,
                crop_coords=crop,
                return_dict=False,
            )[0]
            order += rows
        return torch.stack([outputs[order.index(row)] for row in range(len(noisy))])
