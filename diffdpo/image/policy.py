"""Loads a trained result together with its reference."""

from __future__ import annotations

from pathlib import Path

from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from torch import nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.lora_file import LORA_FILE
from diffdpo.image.network import start_from
from diffdpo.reference import AdapterOff, FrozenCopy, Reference, without_dropout


def load_policy(
    backbone: Backbone, run: str, unet_init: str | None = None
) -> tuple[nn.Module, Reference]:
    """The trained network of ``run``, a folder with a LoRA file or a pipeline, and its reference.

    The reference is the network that training started from: the backbone's, or ``unet_init``.

    Raises UserError where there is no result, or where it belongs to another network.
    """
    folder, network = Path(run), backbone.network
    if unet_init:
        start_from(network, unet_init)
    without_dropout(network)
    # In train mode as in training, because some layers round otherwise in eval mode.
    network.requires_grad_(False).train()
    try:
        if (folder / LORA_FILE).exists():
            backbone.pipeline.load_lora_weights(str(folder), weight_name=LORA_FILE)
            return network, AdapterOff()
        if (folder / "unet").is_dir():
            reference = FrozenCopy(network)
            network.load_state_dict(
                UNet2DConditionModel.from_pretrained(folder, subfolder="unet").state_dict()
            )
            return network, reference
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--policy {run}: cannot be loaded ({' '.join(str(error).split())[:200]})"
        ) from error
    raise UserError(
        f"--policy {run}: holds neither {LORA_FILE} nor a pipeline; did its run finish?"
    )
