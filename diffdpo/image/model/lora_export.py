"""Writes an adapter as the LoRA files that other programs read, with what they show of it.

The form of diffusers is read by diffusers and, for transformers, by ComfyUI. The form of kohya's
scripts (a name of underscores and an ``alpha`` for each layer) is what ComfyUI, A1111 and kohya's
own tools read for UNets; ComfyUI does not know the names of diffusers there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save as as_safetensors
from torch import Tensor, nn

from diffdpo.image.backbones.base import Backbone
from diffdpo.image.lora_file import KOHYA_FILE, LORA_FILE
from diffdpo.image.settings import ImageSettings

ADAPTER = "default"  # the name that peft gives the adapter in training
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What kohya's scripts call a base model, by pipeline class; others go by their class.
VERSIONS = {"StableDiffusionXLPipeline": "sdxl_base_v1-0", "StableDiffusion3Pipeline": "sd3m"}
VERSIONS |= {"FluxPipeline": "flux1"}
SD_2_WIDTH = 1024  # of the text embeddings of Stable Diffusion 2; those of 1 have 768


def write_lora(
    backbone: Backbone,
    network: nn.Module,
    settings: ImageSettings,
    last: Mapping[str, float],
    folder: Path,
) -> None:
    """Write the files that ``--lora_format`` asks for into ``folder``."""
    dtype = DTYPES[settings.lora_dtype]
    # Copies: of a weight that is a view, safetensors would refuse the file.
    state = {
        name: weight.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format)
        for name, weight in get_peft_model_state_dict(network, adapter_name=ADAPTER).items()
    }
    facts = lora_facts(backbone, network, settings, last)
    if settings.lora_format != "kohya":
        own = {LORA_ADAPTER_METADATA_KEY: adapter_facts(backbone.part, network)}
        backbone.pipeline_class.save_lora_weights(
            folder,
            **{f"{backbone.part}_lora_layers": diffusers_names(backbone.part, state)},
            weight_name=LORA_FILE,
            save_function=lambda weights, file: save(weights, Path(file), {**facts, **own}),
        )
    if settings.lora_format != "diffusers" and not why_no_kohya(backbone, settings):
        # Without the facts for peft: diffusers takes an alpha from one place alone.
        save(kohya_weights(backbone.part, network, state), folder / KOHYA_FILE, facts)


def save(weights: dict[str, Tensor], file: Path, facts: Mapping[str, str]) -> None:
    """Write a safetensors file whose bytes depend on its content alone."""
    content = as_safetensors(weights, dict(facts))
    length = int.from_bytes(content[:8], "little")
    # The library writes the facts in an order that differs from one process to the next.
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # what follows stays aligned
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def why_no_kohya(backbone: Backbone, settings: ImageSettings) -> str:
    """Why there is no file in kohya's form for a run; '' where there is."""
    if backbone.part != "unet":
        return (
            "kohya's form is that of UNets; ComfyUI reads the form of diffusers for this family"
            " as it is"
        )
    if settings.use_dora:
        return (
            "programs that read it scale DoRA by another norm than it was trained with, and"
            " diffusers leaves that scale out"
        )
    return ""


def diffusers_names(part: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of diffusers' own scripts: ``lora.down`` in UNets, ``lora_A`` in transformers."""
    if part != "unet":
        return dict(state)
    named = convert_state_dict_to_diffusers(dict(state))
    # It knows the layers of attention alone. Of two conventions in one file diffusers reads one.
    return dict(state) if any(".lora_A." in name for name in named) else named


def kohya_weights(part: str, network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of kohya's scripts, with the alpha that each layer was trained with."""
    weights: dict[str, Tensor] = convert_state_dict_to_kohya(
        {f"{part}.{name}": weight for name, weight in state.items()}
    )
    for layer, alpha in alphas(network).items():
        # The converter takes the rank for alpha.
        weights[f"lora_{part}_{layer.replace('.', '_')}.alpha"] = torch.tensor(float(alpha))
    return weights


def alphas(network: nn.Module) -> dict[str, float]:
    """Alpha by layer, as files state it: what a layer adds is scaled by alpha / rank."""
    return {
        name: layer.scaling[ADAPTER] * layer.r[ADAPTER]
        for name, layer in network.named_modules()
        if isinstance(layer, LoraLayer) and ADAPTER in layer.scaling
    }


def adapter_facts(part: str, network: Any) -> str:
    """What diffusers needs to make the same adapter again, as JSON."""
    config = network.peft_config[ADAPTER]
    targets = config.target_modules
    facts = {
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "target_modules": targets if isinstance(targets, str) else sorted(targets),
        "use_dora": config.use_dora,
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
    }
    return json.dumps({f"{part}.{name}": value for name, value in facts.items()}, sort_keys=True)


def lora_facts(
    backbone: Backbone, network: Any, settings: ImageSettings, last: Mapping[str, float]
) -> dict[str, str]:
    """What the files say of themselves, under the names of kohya's tools and our own."""
    config, alpha = network.peft_config[ADAPTER], next(iter(alphas(network).values()))
    base, side = str(settings.pretrained_model_name_or_path), settings.resolution
    facts = {
        "format": "pt",
        "ss_network_module": "networks.lora",
        "ss_network_dim": config.r,
        "ss_network_alpha": f"{alpha:g}",
        "ss_base_model_version": base_version(backbone),
        "ss_sd_model_name": base,
        "ss_resolution": f"({side}, {side})",
        "ss_steps": f"{last.get('step', 0):g}",
        "ss_learning_rate": f"{settings.learning_rate:g}",
        "ss_seed": settings.seed,
        "diffdpo_base_model": base,
        "diffdpo_rank": config.r,
        "diffdpo_alpha": f"{config.lora_alpha:g}",
        "diffdpo_resolution": side,
        "diffdpo_steps": f"{last.get('step', 0):g}",
        "diffdpo_loss_type": settings.loss_type,
        "diffdpo_beta_dpo": f"{settings.beta:g}",
    }
    return {name: str(value) for name, value in facts.items()}


def base_version(backbone: Backbone) -> str:
    """The kind of the base model in the words of kohya's scripts."""
    name = backbone.pipeline_class.__name__
    if name == "StableDiffusionPipeline":
        wide = backbone.network.config.cross_attention_dim == SD_2_WIDTH
        return "sd_v2" if wide else "sd_v1"
    return VERSIONS.get(name, name)
