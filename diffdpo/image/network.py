"""Makes the network trainable, by LoRA or in full, and the reference that belongs to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone, in_precision
from diffdpo.image.backbones.checks import NOT_COMPUTED, check_entries
from diffdpo.image.backbones.weights import load_network, some, told_in_one_line
from diffdpo.image.settings import ImageSettings
from diffdpo.losses import LOSSES
from diffdpo.reference import (
    AdapterOff,
    FrozenCopy,
    InitialNetwork,
    Reference,
    Zero,
    without_dropout,
)


def make_trainable(
    backbone: Backbone, settings: ImageSettings, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The backbone's network, ready to train on ``device``.

    Adapters and fully trained weights are float32 whatever the precision; weights frozen under
    adapters are ``dtype``.
    """
    network = backbone.network
    if settings.unet_init:
        start_from(network, settings.unet_init)
    without_dropout(network)
    # What is trained is float32: at the usual rates bfloat16 would round most updates to nothing.
    if settings.rank:
        in_precision(network.requires_grad_(False), dtype).to(device)
        add_lora(network, settings)
    else:
        network.requires_grad_(True).to(device, torch.float32)
    if settings.gradient_checkpointing:
        network.enable_gradient_checkpointing()
    return network


def add_lora(network: Any, settings: ImageSettings) -> None:
    """Attach float32 adapters that change nothing yet.

    Raises UserError where no layer has one of the target names.
    """
    # peft draws the adapters from PyTorch's global generator.
    torch.manual_seed(settings.seed)
    rank, targets = settings.rank or 0, list(settings.lora_target_modules)
    config = LoraConfig(
        r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets
    )
    try:
        network.add_adapter(config)
    except ValueError as error:
        raise UserError(
            f"--lora_target_modules {' '.join(targets)}: {' '.join(str(error).split())[:200]}"
        ) from error
    adapters_in_float32(network)


def adapters_in_float32(network: nn.Module) -> None:
    """Cast the weights of adapters to float32, whatever the precision beneath them."""
    for name, weight in network.named_parameters():
        if ".lora_" in name:
            weight.data = weight.data.float()


def make_reference(network: nn.Module, settings: ImageSettings) -> Reference:
    """The reference of a run: zero, adapters off, or the network as it is now."""
    if LOSSES[settings.loss_type].reference_free:
        return Zero()
    if settings.rank:
        return AdapterOff()
    return InitialNetwork() if settings.reference_draws else FrozenCopy(network)


def start_from(network: Any, name: str) -> None:
    """Load the weights of another UNet, from its own folder or from that of a whole pipeline.

    Raises UserError where there is none, or where it is another network than the model's.
    """
    what = f"--unet_init {name}"
    for inside in ({}, {"subfolder": "unet"}):
        try:
            raw = UNet2DConditionModel.load_config(name, **inside)
        except (OSError, ValueError):
            continue
        check_entries(raw, UNet2DConditionModel, what)
        take_over(network, load_network(UNet2DConditionModel, what, (name, inside)), what)
        return
    raise UserError(f"{what}: no UNet there")


def take_over(network: Any, other: Any, what: str) -> None:
    """Load the weights of ``other`` into ``network``.

    Raises UserError where the two would not compute the same with the same weights.
    """
    ours, theirs = (comparable(unet.config) for unet in (network, other))
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        raise UserError(f"{what}: a UNet of another shape than the model's ({some(differing)})")
    with told_in_one_line(what):
        network.load_state_dict(other.state_dict())


def comparable(config: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a UNet's configuration on which its output depends, as text."""
    # The side of its images is a default of sampling. In JSON tuples and lists are the same.
    left_out = {*NOT_COMPUTED, "sample_size"}
    return {
        name: json.dumps(value)
        for name, value in config.items()
        if not name.startswith("_") and name not in left_out
    }
