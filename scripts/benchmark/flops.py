"""How much work a forward pass is, counted over tensors that have a shape and no numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch.utils.flop_counter import FlopCounterMode

from diffdpo.image.backbones import family_of
from scripts.benchmark.shaped import network
from scripts.benchmark.shapes import Shape


def forward_work(shape: Shape) -> tuple[float, int]:
    """Floating-point operations of the network's forward pass for one image, a multiplication and
    an addition counted as two, attention included; and its number of weights."""
    family = family_of(shape.family)
    with torch.device("meta"):
        made = network(shape, torch.float32)
        noisy, timestep, condition = inputs(family, shape)
        # ``no_grad``: attention then has one kernel, which the counter knows.
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            family.predict(made, noisy, timestep, condition)
    return float(counter.get_total_flops()), sum(weight.numel() for weight in made.parameters())


def inputs(family: Any, shape: Shape) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    """What the network is given for one image of the shape's resolution."""
    vae = FrozenDict({"latent_channels": 4} | shape.vae)
    texts = {f"text_encoder{'' if n == 0 else f'_{n + 1}'}": described(config)
             for n, config in enumerate([*shape.clips, *filter(None, [shape.t5])])}  # fmt: skip
    names = SimpleNamespace(**shape.network)
    names.block_out_channels = shape.network.get("block_out_channels", ())
    _, timestep, condition = family.blank_inputs(names, SimpleNamespace(**vae), texts)
    tokens = condition["tokens_NLD"]
    condition = condition | {"tokens_NLD": tokens.new_empty(1, shape.tokens, tokens.shape[-1])}
    side = shape.resolution // 8
    return torch.empty(1, vae["latent_channels"], side, side), timestep, condition


def described(config: dict[str, Any]) -> SimpleNamespace:
    """A text encoder's configuration, as far as the shapes of its output depend on it."""
    width = config.get("hidden_size", config.get("d_model"))
    return SimpleNamespace(
        hidden_size=width, d_model=width, projection_dim=width,
        get_text_config=lambda: SimpleNamespace(hidden_size=width),
    )  # fmt: skip
