"""Loads a trained result together with its reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.weights import PICKLED, load_network
from diffdpo.image.lora import EveryAdapterOff, load_lora
from diffdpo.image.lora_file import LORA_FILE, lora_in
from diffdpo.image.network import start_from, take_over
from diffdpo.reference import FrozenCopy, Reference, without_dropout


def load_policy(
    backbone: Backbone, run: str, unet_init: str | None = None
) -> tuple[nn.Module, Reference]:
    """The trained network of ``run``, a folder with a LoRA file or a pipeline, and its reference.

    The reference is the network that training started from: the backbone's, or ``unet_init``. A
    LoRA may have weights of the text encoders as well; they are part of the policy, not of the
    reference.

    Raises UserError where there is no result, or where it belongs to another network.
    """
    folder, network, what = Path(run), backbone.network, f"--policy {run}"
    if unet_init:
        start_from(backbone, unet_init)
    # In train mode as in training, because some layers round otherwise in eval mode.
    network.requires_grad_(False).train()
    if name := lora_in(folder):
        adapted = load_lora(backbone, folder / name, what)
        without_dropout(network)  # that of the adapters as well
        return network, EveryAdapterOff(backbone, adapted)
    part = backbone.part
    if (folder / part).is_dir():
        without_dropout(network)
        reference = FrozenCopy(network)
        source = run, {"subfolder": part}
        trained = load_network(backbone.network_class, f"{what}: {part}", source)
        take_over(backbone, trained, what)
        check_text_encoders(backbone, run, what)
        return network, reference
    raise UserError(f"{what}: holds neither {LORA_FILE} nor a pipeline; {instead(folder)}")


def instead(folder: Path) -> str:
    """What to do with a folder that holds no result under the names of diffusers."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if pickled := [name for name in names if Path(name).suffix in PICKLED]:
        return f"{short(pickled[0])} is pickled, and safetensors alone are read"
    if weights := [name for name in names if name.endswith(".safetensors")]:
        return f"if {short(weights[0])} is a LoRA, name it {LORA_FILE}"
    return "did its run finish?"


def check_text_encoders(backbone: Backbone, run: str, what: str) -> None:
    """Raises UserError where a pipeline's text encoders are not those of the model named.

    Its network is sampled and scored with the latter's.
    """
    for name in backbone.encoder_names[1:]:
        ours: Any = getattr(backbone.pipeline, name)
        if ours is None or not (Path(run) / name).is_dir():
            continue
        theirs = load_network(type(ours), f"{what}: {name}", (run, {"subfolder": name}))
        if not same_weights(ours, theirs):
            raise UserError(
                f"{what}: its {name} is not that of the model; name the model that it was trained"
                " from, with --pretrained_model_name_or_path"
            )


def same_weights(ours: nn.Module, theirs: nn.Module) -> bool:
    """Whether two networks have the same weights, up to rounding to half precision."""
    first, second = ours.state_dict(), theirs.state_dict()
    return first.keys() == second.keys() and all(
        weight.shape == second[name].shape
        and torch.allclose(weight.float(), second[name].float(), rtol=1e-2, atol=1e-3)
        for name, weight in first.items()
    )
