"""Frozen networks in fewer bits than they compute in, by what diffusers, torchao and bitsandbytes
have for it. All compute in bfloat16, and none is trained: adapters on them are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from diffdpo.errors import UserError

STORED = torch.float8_e4m3fn
# Their gradient reads the weight itself, which is back in float8 by then; that of a linear layer
# reads a view, which keeps the cast one.
CONVOLUTIONS = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)


def check_base_precision(name: str | None) -> None:
    """Raises UserError where this machine lacks what a precision needs."""
    if name == "nf4" and not torch.cuda.is_available():
        raise UserError("--base_precision nf4: needs a GPU; int8, of twice its size, needs none")


def loading_options(name: str | None) -> dict[str, Any]:
    """The arguments of ``from_pretrained`` with which weights are quantised as they are read."""
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if name == "int8":
        from torchao.quantization import Int8WeightOnlyConfig

        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig(version=2))}
    if name == "fp8_torchao":
        from torchao.quantization import Float8WeightOnlyConfig

        return {"quantization_config": TorchAoConfig(Float8WeightOnlyConfig())}
    if name == "nf4":
        # Dettmers et al. 2023, arXiv 2305.14314
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        return {"quantization_config": nf4}
    return {}


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


def store_in_fp8(network: Any) -> None:
    """Store a network's linear layers in float8 and cast each to bfloat16 when it runs; all else,
    adapters among them, stays as it is.

    Raises UserError where a weight lies beyond the range of float8.
    """
    largest = {name: weight.abs().max() for name, weight in network.named_parameters()}
    # After the adapters: made on layers in float8, they would be rounded to it.
    network.enable_layerwise_casting(
        storage_dtype=STORED, compute_dtype=torch.bfloat16, skip_modules_classes=CONVOLUTIONS
    )
    stored = [name for name, weight in network.named_parameters() if weight.dtype == STORED]
    limit = torch.finfo(STORED).max  # to which what lies beyond it is cut
    if wrong := [name for name in stored if largest[name] > limit]:
        raise UserError(
            f"--base_precision fp8: weights beyond its range ({len(wrong)}: {wrong[0]}); take int8"
        )


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
