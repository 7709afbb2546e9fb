"""Makes the network trainable, by LoRA or in full, and the reference that belongs to it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig
from torch import nn

from diffdpo.engine.averages import MovingAverage, MovingReference
from diffdpo.engine.checkpoint import trainable
from diffdpo.engine.low_bits import leave_to_each_process, recomputed_whole, store_in_fp8
from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone, in_precision
from diffdpo.image.backbones.checks import NOT_COMPUTED, check_entries
from diffdpo.image.backbones.offload import offload
from diffdpo.image.backbones.weights import load_network, some, told_in_one_line
from diffdpo.image.flags.adapter_settings import AdapterSettings
from diffdpo.image.flags.loss_settings import REFERENCE_DECAY, image_objective
from diffdpo.image.lora_file import lora_path
from diffdpo.image.model.lora import FirstState, in_float32, read_lora
from diffdpo.image.model.lora_export import why_no_kohya
from diffdpo.image.settings import ImageSettings
from diffdpo.reference import (
    AdapterCopy,
    AdapterOff,
    BaseModel,
    FrozenCopy,
    InitialNetwork,
    OtherModel,
    Reference,
    Zero,
    without_dropout,
)


def resolve_lora(backbone: Backbone, settings: ImageSettings) -> ImageSettings:
    """The settings with the model's own target layers where none are given; under ``--init_lora``
    with what that LoRA is.

    Raises UserError where the family has no LoRA, none in the form that is asked for, or where
    another one is asked for than is continued.
    """
    pipeline = backbone.pipeline_class
    if settings.is_lora and not hasattr(pipeline, "save_lora_weights"):
        lora = "--init_lora" if settings.init_lora else "--rank"
        raise UserError(
            f"{lora}: diffusers loads no LoRA into {pipeline.__name__}, so it is trained in full:"
            f" leave out {lora}"
        )
    if settings.init_lora:
        settings = continued(backbone, settings)
    if settings.lora_format == "kohya" and (reason := why_no_kohya(backbone, settings)):
        raise UserError(f"--lora_format kohya: {reason}; take --lora_format diffusers")
    targets = list(settings.lora_target_modules or backbone.lora_targets)
    return replace(settings, lora_target_modules=targets)


def continued(backbone: Backbone, settings: ImageSettings) -> ImageSettings:
    """The settings with rank, alpha, kind and layers of the LoRA that is trained further.

    Raises UserError with a line for each that is given otherwise.
    """
    config = first_state(backbone, settings).config
    targets, network = sorted(config.target_modules or []), backbone.network
    if matched(network, targets) == matched(network, backbone.lora_targets):
        targets = list(backbone.lora_targets)
    own: dict[str, Any] = {
        "rank": config.r,
        "lora_alpha": config.lora_alpha,
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
    }
    wrong = [
        f"--{name} {getattr(settings, name)}: the LoRA of --init_lora has {value}; leave it out"
        for name, value in own.items()
        if getattr(settings, name) not in (None, False, value)
    ]
    asked = settings.lora_target_modules
    if asked and matched(network, asked) != matched(network, targets):
        wrong.append(
            f"--lora_target_modules {' '.join(asked)}: the LoRA of --init_lora has other layers"
            f" ({some(targets)}); leave it out"
        )
    if wrong:
        raise UserError(*wrong)
    return replace(settings, **own, lora_target_modules=asked or targets)


def first_state(backbone: Backbone, settings: AdapterSettings) -> FirstState:
    """The LoRA that ``--init_lora`` names."""
    name = str(settings.init_lora)
    return read_lora(backbone, lora_path(name), f"--init_lora {name}")


def matched(network: nn.Module, targets: Iterable[str]) -> set[str]:
    """The layers that have one of the names, or a name that ends in one of them."""
    ends = tuple(f".{target}" for target in targets)
    return {name for name, _ in network.named_modules() if f".{name}".endswith(ends)}


def base_copy(
    backbone: Backbone, settings: AdapterSettings, device: torch.device
) -> nn.Module | None:
    """A copy of the model's network as it was loaded, where a full fine-tune that starts from other
    weights has the model itself as its reference; else None. To be made before
    ``make_trainable``."""
    if not (settings.unet_init and settings.reference == "base"):
        return None
    # In the precision of the policy, which is trained in full.
    network = copy.deepcopy(backbone.network).to(device, torch.float32)
    without_dropout(network)
    return network


def make_trainable(
    backbone: Backbone, settings: ImageSettings, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The backbone's network, ready to train on ``device``; see ``adapt``."""
    network = adapt(backbone, settings, dtype, device)
    save_activations(network, settings)
    return network


def adapt(
    backbone: Backbone, settings: ImageSettings, dtype: torch.dtype, device: torch.device
) -> nn.Module:
    """The backbone's network on ``device``, with adapters or trainable itself.

    Adapters and fully trained weights are float32 whatever the precision; weights frozen under
    adapters are ``dtype``.
    """
    network = backbone.network
    if settings.unet_init:
        start_from(backbone, settings.unet_init)
    # What is trained is float32: at the usual rates bfloat16 would round most updates to nothing.
    if settings.is_lora:
        in_precision(network.requires_grad_(False), dtype)
        if settings.init_lora:
            continue_lora(backbone, settings)
        else:
            add_lora(network, settings, backbone.lora_targets)
        lower(network, settings.base_precision)
        # Only now, when it is as small as it gets.
        offload(network, device) if settings.offload else network.to(device)
    else:
        network.requires_grad_(True).to(device, torch.float32)
    without_dropout(network)  # after the adapters: a loaded one brings a rate of its own
    return network


def save_activations(network: Any, settings: ImageSettings) -> None:
    """Let activations be computed again, where that is asked for. Raises UserError where the
    network cannot."""
    # The blocks of an offloaded network are computed again as it is.
    if settings.gradient_checkpointing and not settings.offload:
        if not network._supports_gradient_checkpointing:
            kind = type(network).__name__
            raise UserError(f"--gradient_checkpointing: {kind} has none; leave the flag out")
        whole = settings.base_precision == "fp8"
        network.enable_gradient_checkpointing(recomputed_whole if whole else None)


def add_lora(network: Any, settings: ImageSettings, default: Sequence[str]) -> None:
    """Attach float32 adapters that change nothing yet, to ``default`` layers where none are named.

    Raises UserError where no layer has one of the target names.
    """
    # peft draws the adapters from PyTorch's global generator.
    torch.manual_seed(settings.seed)
    rank, targets = settings.rank or 0, list(settings.lora_target_modules or default)
    config = LoraConfig(
        r=rank,
        lora_alpha=settings.lora_alpha or rank,  # type: ignore[arg-type] # peft divides it by r
        init_lora_weights="gaussian",
        target_modules=targets,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
    )
    try:
        network.add_adapter(config)
    except ValueError as error:
        raise UserError(
            f"--lora_target_modules {' '.join(targets)}: {' '.join(str(error).split())[:200]}"
        ) from error
    in_float32(network)


def lower(network: Any, base_precision: str | None) -> None:
    """Store what is frozen under adapters in fewer bits, where loading has not done it."""
    if base_precision in (None, "bf16"):
        return
    if base_precision == "fp8":
        store_in_fp8(network)
    leave_to_each_process(network)


def continue_lora(backbone: Backbone, settings: ImageSettings) -> None:
    """Attach the LoRA that is trained further and, where it is the reference, a frozen copy."""
    first, network = first_state(backbone, settings), backbone.network
    if settings.reference == "start":
        first.attach(network, AdapterCopy.frozen)
    first.attach(network, AdapterCopy.trained)


def make_reference(
    network: nn.Module,
    settings: ImageSettings,
    base: nn.Module | None = None,
    copied: Callable[[nn.Module], nn.Module] = copy.deepcopy,
) -> Reference:
    """The reference of a run: zero, a moving average of the policy, what training starts from, or
    ``base``, see ``base_copy``. A frozen copy is ``copied``."""
    if image_objective(settings).reference_free:
        return Zero()
    if settings.reference == "ema":
        decay = settings.reference_decay
        decay = REFERENCE_DECAY if decay is None else decay
        return MovingReference(MovingAverage(trainable(network), decay))
    return starting_point(network, settings, base, copied)


def starting_point(
    network: nn.Module,
    settings: ImageSettings,
    base: nn.Module | None = None,
    copied: Callable[[nn.Module], nn.Module] = copy.deepcopy,
) -> Reference:
    """The network as it is now as a reference, by the cheapest means; or, where asked for, the
    model without what is trained further."""
    if base is not None:
        return OtherModel(base, "the model without what is trained further")
    if settings.init_lora:
        return BaseModel() if settings.reference == "base" else AdapterCopy()
    if settings.is_lora:
        return AdapterOff()
    return InitialNetwork() if settings.reference_draws else FrozenCopy(network, copied)


def start_from(backbone: Backbone, name: str) -> None:
    """Load the weights of another network, from its own folder or from that of a whole pipeline.

    Raises UserError where there is none, or where it is another network than the model's.
    """
    what, kind, part = f"--unet_init {name}", backbone.network_class, backbone.part
    for inside in ({}, {"subfolder": part}):
        try:
            raw = kind.load_config(name, **inside)
        except (OSError, ValueError):
            continue
        check_entries(raw, kind, what)
        take_over(backbone, load_network(kind, what, (name, inside)), what)
        return
    raise UserError(f"{what}: no {noun(part)} there")


def take_over(backbone: Backbone, other: Any, what: str) -> None:
    """Load the weights of ``other`` into the backbone's network.

    Raises UserError where the two would not compute the same with the same weights.
    """
    network = backbone.network
    ours, theirs = (comparable(each.config) for each in (network, other))
    differing = sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name))
    if differing:
        raise UserError(
            f"{what}: a {noun(backbone.part)} of another shape than the model's ({some(differing)})"
        )
    with told_in_one_line(what):
        network.load_state_dict(other.state_dict())


def noun(part: str) -> str:
    """What the part of a pipeline is called in a sentence."""
    return "UNet" if part == "unet" else part


def comparable(config: Mapping[str, Any]) -> dict[str, str]:
    """The entries of a network's configuration on which its output depends, as text."""
    # The side of its images is a default of sampling. In JSON tuples and lists are the same.
    left_out = {*NOT_COMPUTED, "sample_size"}
    return {
        name: json.dumps(value)
        for name, value in config.items()
        if not name.startswith("_") and name not in left_out
    }
