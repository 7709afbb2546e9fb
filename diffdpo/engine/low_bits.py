"""Frozen networks in fewer bits than they compute in, by what diffusers, torchao and bitsandbytes
have for it. All compute in bfloat16, and none is trained: adapters on them are."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from diffdpo.errors import UserError

STORED = torch.float8_e4m3fn
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OF_BITSANDBYTES = ("nf4", "fp4", "llm_int8")
# Their gradient reads the weight itself, which is back in float8 by then; that of a linear layer
# reads a view, which keeps the cast one.
CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def check_bits(name: str | None, flag: str) -> None:
    """Raises UserError where this machine lacks what the precision ``name``, asked for by ``flag``,
    needs."""
    if name not in OF_BITSANDBYTES:
        return
    if not torch.cuda.is_available():
        raise UserError(f"{flag}: needs a GPU; --base_precision int8 needs none")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"{flag}: bitsandbytes is not installed (pip install bitsandbytes)")


def loading_options(
    name: str | None, library: Any, kept: Sequence[str] | None = None, **four: Any
) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` with which weights are quantised as they are read, in
    the classes of ``library``, diffusers or transformers.

    Modules that are ``kept`` stay as they are; None leaves that to the library. ``four`` are more
    options of 4-bit weights.
    """
    kept = None if kept is None else list(kept)
    if name == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        given = library.TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=kept)
    elif name == "fp8_torchao":
        from torchao.quantization import Float8WeightOnlyConfig

        given = library.TorchAoConfig(Float8WeightOnlyConfig(), modules_to_not_convert=kept)
    elif name in ("nf4", "fp4"):
        # Dettmers et al. 2023, arXiv 2305.14314
        options = {"bnb_4bit_compute_dtype": torch.bfloat16, **four}
        given = library.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=name, llm_int8_skip_modules=kept, **options
        )
    elif name == "llm_int8":
        # Dettmers et al. 2022, arXiv 2208.07339
        given = library.BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=kept)
    else:
        return {}
    return {"quantization_config": given}


def compute_in_bfloat16(network: Any) -> Any:
    """The network, whose layers that torchao quantised get their inputs in bfloat16.

    Autocast casts the inputs of no layer whose weight is a tensor of another kind.
    """
    for module in network.modules():
        if isinstance(module, nn.Linear) and hasattr(module.weight, "__tensor_flatten__"):
            module.register_forward_pre_hook(in_bfloat16)
    return network


def in_bfloat16(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The inputs of a layer, cast."""
    return (inputs[0].to(torch.bfloat16),)


def store_in_fp8(network: Any, kept: Collection[nn.Module] | None = None) -> None:
    """Store a network's linear layers in float8 and cast each to bfloat16 when it runs; all else,
    adapters among them, stays as it is. A network of diffusers says itself which layers to leave;
    of another, those that are ``kept``.

    Raises UserError where a weight lies beyond the range of float8.
    """
    largest = {name: weight.abs().max() for name, weight in network.named_parameters()}
    # After the adapters: made on layers in float8, they would be rounded to it.
    if kept is None:
        network.enable_layerwise_casting(
            storage_dtype=STORED, compute_dtype=torch.bfloat16, skip_modules_classes=CONVOLUTIONS
        )
    else:
        cast_linear_layers(network, kept)
    stored = [name for name, weight in network.named_parameters() if weight.dtype == STORED]
    limit = torch.finfo(STORED).max  # to which what lies beyond it is cut
    if wrong := [name for name in stored if largest[name] > limit]:
        raise UserError(
            f"--base_precision fp8: weights beyond its range ({len(wrong)}: {wrong[0]}); take int8"
        )


def cast_linear_layers(network: nn.Module, kept: Collection[nn.Module]) -> None:
    """Let each linear layer of a base model be in float8 but while it runs."""
    from diffusers.hooks.layerwise_casting import apply_layerwise_casting_hook

    adapted = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    # An adapter's own matrices are linear layers as well.
    beside = {id(part) for layer in adapted for part in layer.modules()}
    beside -= {id(layer.get_base_layer()) for layer in adapted}
    beside |= {id(module) for module in kept}
    for module in network.modules():
        if isinstance(module, nn.Linear) and id(module) not in beside:
            apply_layerwise_casting_hook(module, STORED, torch.bfloat16, False)


def recomputed_whole(block: nn.Module, *arguments: Any) -> Any:
    """Gradient checkpointing of a block whose layers are cast when they run."""
    # PyTorch stops a recomputation at the last tensor that it needs, inside a layer, which would
    # then stay in bfloat16.
    with set_checkpoint_early_stop(False):
        return checkpoint(block.__call__, *arguments, use_reentrant=False)


def leave_to_each_process(network: Any) -> None:
    """Let processes neither compare nor exchange the frozen weights: all read the same files, and
    weights in few bits cannot be sent."""
    frozen = [name for name, weight in network.named_parameters() if not weight.requires_grad]
    network._ddp_params_and_buffers_to_ignore = frozen


def is_plain(weight: nn.Parameter) -> bool:
    """Whether a weight is an ordinary tensor, whose type may be changed."""
    # Quantised ones are of classes of their own, some of which say that they are bfloat16.
    return type(weight) is nn.Parameter and weight.dtype in FLOATS


def settle(
    network: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    beside: Iterable[nn.Parameter] = (),
) -> None:
    """Put a network on ``device``: trained weights and those ``beside`` them in float32, other
    frozen ones in ``dtype``, and those in few bits as they are."""
    exact = {id(weight) for weight in beside}
    for weight in network.parameters():
        if is_plain(weight):
            whole = weight.requires_grad or id(weight) in exact
            weight.data = weight.data.to(device, torch.float32 if whole else dtype)
    network.to(device)
