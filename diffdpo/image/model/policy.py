"""Loads a trained result together with its reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffdpo.config import as_recorded
from diffdpo.engine import checkpoint, checkpoint_state
from diffdpo.engine.run_config import is_checkpoint
from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.weights import PICKLED, load_network
from diffdpo.image.flags.adapter_settings import AdapterSettings
from diffdpo.image.lora_file import LORA_FILE, lora_in
from diffdpo.image.model.lora import EveryAdapterOff, load_lora
from diffdpo.image.model.network import (
    base_copy,
    first_state,
    make_trainable,
    start_from,
    starting_point,
    take_over,
)
from diffdpo.image.settings import ImageSettings
from diffdpo.reference import AdapterCopy, FrozenCopy, Reference, without_dropout

FROM_THE_MODEL = AdapterSettings()


def load_policy(
    backbone: Backbone, run: str, start: AdapterSettings = FROM_THE_MODEL
) -> tuple[nn.Module, Reference]:
    """The trained network of ``run``, a folder with a LoRA file or a pipeline, or a checkpoint of
    a run; and its reference.

    The reference is what training started from, which ``start`` names: the backbone's network,
    other weights, or a LoRA. A LoRA file may have weights of the text encoders as well; they are
    part of the policy, not of the reference.

    Raises UserError where there is no result, or where it belongs to another network.
    """
    folder, network, what = Path(run), backbone.network, f"--policy {run}"
    if is_checkpoint(folder):
        return load_saved(backbone, folder, start)
    if start.unet_init and start.reference != "base":
        start_from(backbone, start.unet_init)
    # In train mode as in training, because some layers round otherwise in eval mode.
    network.requires_grad_(False).train()
    if name := lora_in(folder):
        first = bool(start.init_lora) and start.reference != "base"
        if first:
            first_state(backbone, start).attach(network, AdapterCopy.frozen)
        adapted = load_lora(backbone, folder / name, what)
        without_dropout(network)  # that of the adapters as well
        return network, EveryAdapterOff(backbone, adapted, first)
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


def move(backbone: Backbone, device: torch.device, reference: Reference | None = None) -> None:
    """Bring a pipeline, and a reference that is a network of its own, to ``device``."""
    backbone.pipeline.to(device)
    if isinstance(reference, FrozenCopy):
        reference.copy.to(device)


def load_saved(
    backbone: Backbone, folder: Path, start: AdapterSettings
) -> tuple[nn.Module, Reference]:
    """The network of a checkpoint, as its run would export it, and its reference."""
    state = checkpoint.read_state(folder)
    settings = replace(
        settings_of_run(folder, state),
        unet_init=start.unet_init,
        init_lora=start.init_lora,
        # A reference that moved is told by no checkpoint as it was: then it is the start.
        reference="base" if start.reference == "base" else "start",
    )
    base = base_copy(backbone, settings, torch.device("cpu"))
    network = untrained(backbone, settings).train()
    reference = starting_point(network, replace(settings, reference_draws=0), base)
    checkpoint.load_result(folder, network, state)
    return network.requires_grad_(False), reference


def untrained(backbone: Backbone, settings: ImageSettings) -> nn.Module:
    """The network of a run before its first step, under adapters in the precision it has."""
    settings = replace(settings, gradient_checkpointing=False, offload=False)
    return make_trainable(backbone, settings, backbone.network.dtype, torch.device("cpu"))


def settings_of_run(folder: Path, state: Mapping[str, Any]) -> ImageSettings:
    """The settings of the image run that a checkpoint with this ``state`` was taken of.

    Raises UserError where it is of another kind.
    """
    content = state["settings"]
    if "pretrained_model_name_or_path" not in content:
        raise UserError(f"{folder}: not a checkpoint of image training")
    return as_recorded(ImageSettings, str(folder / checkpoint_state.FILE), content)


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
