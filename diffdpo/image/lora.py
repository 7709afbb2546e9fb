"""LoRA files as policies: every weight in them is used, and the reference has none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn

from diffdpo.errors import UserError
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.backbones.conditions import Condition
from diffdpo.image.backbones.weights import check_finite, some, told_in_one_line
from diffdpo.image.lora_file import LORA_FILE
from diffdpo.reference import AdapterOff, ScoreFunction, unwrapped

ADAPTER = "policy"
OF_REFERENCE = "reference/"  # before the names of the reference's own embeddings


class EveryAdapterOff(AdapterOff):
    """The model named: its network and its text encoders, all without the policy's adapters."""

    name = "the same model with its adapters off"

    def __init__(self, backbone: Backbone, adapted: Sequence[Any]) -> None:
        """``adapted`` are the parts of the pipeline that have adapters."""
        self.backbone, self.adapted = backbone, adapted

    @contextmanager
    def off(self) -> Iterator[None]:
        """Every adapter is off inside."""
        with ExitStack() as stack:
            for part in self.adapted:
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


def load_lora(backbone: Backbone, folder: Path, what: str) -> list[Any]:
    """Load a LoRA file into the network and the text encoders; returns those that it has weights
    for.

    Raises UserError where the file is damaged or a weight in it has no place.
    """
    pipeline, options = backbone.pipeline, {"weight_name": LORA_FILE, "use_safetensors": True}
    with told_in_one_line(what):
        raw = load_file(folder / LORA_FILE)
        weights = pipeline.lora_state_dict(
            str(folder), unet_config=backbone.network.config, **options
        )[0]
    check_finite(raw, what)
    scales = sorted(name for name in raw if "dora_scale" in name)
    if scales:
        raise UserError(f"{what}: scales of DoRA, which are not loaded ({some(scales)})")
    parts = {name: getattr(pipeline, name) for name in ("unet", *backbone.encoder_names[1:])}
    check_prefixes(list(weights), list(parts), what)
    with told_in_one_line(what):
        pipeline.load_lora_weights(str(folder), adapter_name=ADAPTER, **options)
    adapted = []
    for prefix, part in parts.items():
        given = {
            name.removeprefix(f"{prefix}."): weight
            for name, weight in weights.items()
            if name.startswith(f"{prefix}.")
        }
        if given:
            to_peft = convert_unet_state_dict_to_peft if prefix == "unet" else text_to_peft
            check_used(given, part, to_peft, f"{what}: {prefix}")
            adapted.append(part)
    return adapted


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
