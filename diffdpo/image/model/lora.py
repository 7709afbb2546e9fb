"""LoRA files as policies: every weight in them is used, and the reference has none of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from diffusers.utils.peft_utils import _create_lora_config
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from diffdpo.errors import UserError, short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.weights import check_finite, some, told_in_one_line
from diffdpo.reference import AdapterCopy, AdapterOff, ScoreFunction, unwrapped

ADAPTER = "policy"
OF_REFERENCE = "reference/"  # before the names of the reference's own embeddings


class EveryAdapterOff(AdapterOff):
    """The model named: its network and its text encoders, all without the policy's adapters."""

    name = "the same model with its adapters off"

    def __init__(self, backbone: Backbone, adapted: Sequence[Any], first: bool) -> None:
        """``adapted`` are the parts of the pipeline that have adapters of the policy; ``first``:
        the network has one of the reference as well, the LoRA that training went on from."""
        self.backbone, self.adapted, self.first = backbone, adapted, first

    @contextmanager
    def off(self) -> Iterator[None]:
        """Every adapter of the policy is off inside."""
        with ExitStack() as stack:
            for part in self.adapted:
                if self.first and part is self.backbone.network:
                    part.set_adapter(AdapterCopy.frozen)
                    stack.callback(part.set_adapter, ADAPTER)
                else:
                    part.disable_adapters()
                    stack.callback(part.enable_adapters)
            yield

    @contextmanager
    def network(self, model: nn.Module) -> Iterator[nn.Module]:
        with self.off():
            yield unwrapped(model)

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """The policy's embeddings of prompts and, under names of their own, the reference's."""
        policy = self.backbone.encode_prompts(prompts)
        if all(part is self.backbone.network for part in self.adapted):
            return policy  # the reference's are the same
        with self.off():
            plain = self.backbone.encode_prompts(prompts)
        return policy | {OF_REFERENCE + name: value for name, value in plain.items()}

    def score(self, score: ScoreFunction, model: nn.Module, draw: Any) -> Tensor:
        own = {
            name.removeprefix(OF_REFERENCE): value
            for name, value in draw.condition.items()
            if name.startswith(OF_REFERENCE)
        }
        return super().score(score, model, replace(draw, condition=draw.condition | own))


def load_lora(backbone: Backbone, file: Path, what: str) -> list[Any]:
    """Load a LoRA file into the network and the text encoders; returns those that it has weights
    for.

    Raises UserError where the file is damaged or a weight in it has no place.
    """
    names = (backbone.part, *backbone.encoder_names[1:])
    parts = {name: getattr(backbone.pipeline, name) for name in names}
    weights = read_weights(backbone, file, list(parts), what)[0]
    with told_in_one_line(what), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a second adapter, beside that of the reference
        backbone.pipeline.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name=ADAPTER, use_safetensors=True
        )
    adapted = []
    for prefix, part in parts.items():
        if given := below(prefix, weights):
            to_peft = convert_unet_state_dict_to_peft if prefix == backbone.part else text_to_peft
            check_used(given, part, to_peft, f"{what}: {prefix}")
            adapted.append(part)
            in_float32(part)
    return adapted


@dataclass(frozen=True)
class FirstState:
    """An adapter of the network as a file has it: how it is made, and its weights by peft's
    names."""

    config: LoraConfig
    weights: dict[str, Tensor]
    what: str  # the file, in errors

    def attach(self, network: Any, adapter: str) -> None:
        """Add it to a network, under the name ``adapter``, in float32 and switched on.

        Raises UserError where its weights have another shape than the network's layers.
        """
        with told_in_one_line(self.what), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a second adapter, which is the point here
            network.add_adapter(self.config, adapter)
            in_float32(network)  # first: what is loaded must not be rounded to its precision
            set_peft_model_state_dict(network, self.weights, adapter)


def read_lora(backbone: Backbone, file: Path, what: str) -> FirstState:
    """The adapter of the network in a LoRA file.

    Raises UserError where the file is damaged, or has weights of another part or for layers that
    the network does not have.
    """
    part, network = backbone.part, backbone.network
    named, alphas, metadata = read_weights(backbone, file, [part], what)
    weights = below(part, named)
    if not any(".lora_A." in name for name in weights):
        weights = convert_unet_state_dict_to_peft(weights)
    ranks = {f"^{k}": v.shape[1] for k, v in weights.items() if ".lora_B." in k and v.ndim > 1}
    with told_in_one_line(what):
        # By diffusers' own reading: of the facts in the file, or of its shapes and alphas.
        config = _create_lora_config(
            weights, below(part, alphas), below(part, metadata) or None, ranks
        )
    layers = {name for name, _ in network.named_modules()}
    strays = sorted({re.split(r"\.lora_", name)[0] for name in weights} - layers)
    if strays:
        raise UserError(f"{what}: weights in its LoRA file have no place ({some(strays)})")
    if config.bias != "none":
        raise UserError(f"{what}: trains biases ({short(config.bias)}), which is not supported")
    return FirstState(config, weights, what)


def read_weights(
    backbone: Backbone, file: Path, parts: Sequence[str], what: str
) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """The weights in a LoRA file by diffusers' names, the alphas in it, and the facts for peft.

    Raises UserError where the file is damaged, or has weights of no one of the ``parts``.
    """
    with told_in_one_line(what):
        raw = load_file(file)
        weights, *alphas, metadata = backbone.pipeline.lora_state_dict(
            str(file.parent),
            weight_name=file.name,
            use_safetensors=True,
            unet_config=backbone.network.config,
            return_alphas=True,
            return_lora_metadata=True,
        )
    check_finite(raw, what)
    scales = sorted(name for name in raw if "dora_scale" in name)
    if scales:
        raise UserError(f"{what}: scales of DoRA, which are not loaded ({some(scales)})")
    check_prefixes(list(weights), parts, what)
    return weights, next(iter(alphas), None) or {}, metadata or {}


def below(prefix: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one part of the pipeline, by their names in it."""
    start = f"{prefix}."
    return {k.removeprefix(start): value for k, value in values.items() if k.startswith(start)}


def in_float32(part: Any) -> None:
    """Make the adapters of a part float32: in a file of half precision they are as it has them."""
    for name, weight in part.named_parameters():
        if "lora_" in name:
            weight.data = weight.data.float()


def check_prefixes(names: Sequence[str], parts: Sequence[str], what: str) -> None:
    """Raises UserError for weights that belong to no part of the pipeline."""
    starts = tuple(f"{part}." for part in parts)
    strays = sorted(name for name in names if not name.startswith(starts))
    if len(strays) == len(names):
        raise UserError(
            f"{what}: no weights in its LoRA file fit the model ({some(strays)}); names must begin"
            f" with {' or '.join(starts)}"
        )
    if strays:
        raise UserError(f"{what}: weights in its LoRA file have no place ({some(strays)})")


def check_used(
    given: Mapping[str, Tensor],
    part: Any,
    to_peft: Callable[[dict[str, Tensor]], Mapping[str, Tensor]],
    what: str,
) -> None:
    """Raises UserError where weights of a LoRA file were not loaded into a part."""
    loaded = get_peft_model_state_dict(part, adapter_name=ADAPTER)
    converted = to_peft(dict(given)) if not any("lora_A" in name for name in given) else given
    # Newer versions of transformers have no such level.
    have, want = ({k.removeprefix("text_model.") for k in names} for names in (loaded, converted))
    left = sorted(name for name in want - have if not name.endswith("alpha"))
    if left:
        raise UserError(f"{what}: weights in its LoRA file have no place ({some(left)})")


def text_to_peft(weights: dict[str, Tensor]) -> Mapping[str, Tensor]:
    """The names that PEFT gives to the adapters of a text encoder."""
    return convert_state_dict_to_peft(convert_state_dict_to_diffusers(weights))
