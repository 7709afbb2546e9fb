"""Adapters on a language model: a new LoRA, one that is trained further, and beside them modules
that are trained whole."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper, load_peft_weights
from safetensors.torch import save_file
from transformers import PreTrainedModel

from diffdpo.engine.loaded import check_finite
from diffdpo.engine.low_bits import is_plain
from diffdpo.errors import UserError, short
from diffdpo.reference import (
    AdapterCopy,
    AdapterOff,
    BaseModel,
    OtherAdapter,
    Reference,
    without_dropout,
)
from diffdpo.text.flags.adapter_settings import FORMS, OF_A_NEW_ONE
from diffdpo.text.model.loading import ADAPTER, PREFIX, attach, base_of, reasons
from diffdpo.text.model.targets import apart, check_names, is_pattern, touches_ends
from diffdpo.text.settings import TextSettings
from diffdpo.text.vision.models import beside_language

WEIGHTS = "adapter_model.safetensors"


def is_adapter(network: PreTrainedModel) -> bool:
    """Whether the model has an adapter, loaded with it or added here."""
    return bool(getattr(network, "peft_config", None))


def is_continued(network: PreTrainedModel, settings: TextSettings) -> bool:
    """Whether the adapter was loaded with the model and is trained further."""
    has_two = is_adapter(network) and AdapterCopy.frozen in network.peft_config
    return has_two and not settings.splits_base


def train_further(network: PreTrainedModel, settings: TextSettings) -> None:
    """Make the loaded adapter trainable and keep its first state beside it.

    Raises UserError where it trains biases, and where settings of a new one are given.
    """
    name = str(settings.model_name_or_path)
    config: Any = network.peft_config[ADAPTER]
    if getattr(config, "bias", "none") != "none":
        raise UserError(
            f"--model_name_or_path {network.name_or_path}: its adapter trains biases (bias"
            f" {config.bias}), of which no second copy can be the reference; merge it into its base"
            " model first"
        )
    other = [form for form in FORMS if not getattr(config, form, False)]
    for given in (each for each in (*OF_A_NEW_ONE, *other) if getattr(settings, each)):
        raise UserError(
            f"--{given}: {short(name)} is an adapter, which begins as it is, of its own form and"
            " modules; leave the flag out"
        )
    config.inference_mode = False
    keep_first_state(network)


def keep_first_state(network: PreTrainedModel) -> None:
    """Add a frozen copy of the adapter, to be the reference."""
    config: Any = copy.copy(network.peft_config[ADAPTER])
    # The copy is filled from the first one, and takes nothing out of the weights beneath.
    if isinstance(getattr(config, "init_lora_weights", None), str):
        config.init_lora_weights = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of a second adapter, which is the point here
        network.add_adapter(config, AdapterCopy.frozen)
    in_float32(network)
    # The weights themselves: what is copied into them is in the network.
    state = network.state_dict()
    with torch.no_grad():
        for name, weight in state.items():
            if f".{AdapterCopy.frozen}" in name:
                weight.copy_(state[name.replace(f".{AdapterCopy.frozen}", f".{ADAPTER}")])
    network.requires_grad_(False)
    network.set_adapter(ADAPTER)


def add_lora(network: PreTrainedModel, settings: TextSettings) -> None:
    """Attach adapters that change nothing at the start, to the language model alone where there are
    other parts.

    Where they begin as a part of the weights beneath (PiSSA, Meng et al. 2024, arXiv 2404.02948;
    OLoRA, Büyükakyüz 2024, arXiv 2406.01775), a frozen copy of them is the reference: without them
    the network is no longer the model.

    Raises UserError where no module has one of the names that are given.
    """
    torch.manual_seed(settings.seed)  # one of the two factors of an adapter starts at random
    targets = apart(settings.lora_target_modules)
    check_names(network, "lora_modules_to_save", list(settings.lora_modules_to_save))
    if not is_pattern(targets):
        check_names(network, "lora_target_modules", [f".{name}" for name in targets])
    config = lora_config(network, settings, targets)
    network.requires_grad_(False)
    try:
        network.add_adapter(config)
    except ValueError as error:
        raise UserError(
            f"--lora_target_modules {' '.join(targets)}: {' '.join(str(error).split())[:200]}"
        ) from error
    check_saved(network, settings)
    in_float32(network)
    if settings.splits_base:
        check_rank(network, settings)
        keep_first_state(network)


def lora_config(network: PreTrainedModel, settings: TextSettings, targets: list[str]) -> LoraConfig:
    """What peft is told of new adapters on the modules ``targets``."""
    saved = list(settings.lora_modules_to_save)
    named: Any = targets[0] if is_pattern(targets) else targets
    return LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        target_modules=named,
        exclude_modules=beside_language(network),
        modules_to_save=saved or None,
        task_type="CAUSAL_LM",
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        init_lora_weights=settings.init_lora_weights or True,  # type: ignore[arg-type]
        # Or the two ends of a tied matrix would part, which a merged model cannot hold.
        ensure_weight_tying=is_tied(network) and touches_ends(targets + saved),
    )


def check_rank(network: PreTrainedModel, settings: TextSettings) -> None:
    """Raises UserError where a LoRA would begin as more parts than a layer has: peft then makes a
    smaller one."""
    factors = {n: w for n, w in network.named_parameters() if f".lora_A.{ADAPTER}" in n}
    if small := [n for n, w in factors.items() if len(w) < settings.lora_r]:
        name, most = short(small[0].split(".lora_A")[0]), min(len(w) for w in factors.values())
        raise UserError(
            f"--init_lora_weights {settings.init_lora_weights}: {name} has fewer parts than"
            f" --lora_r {settings.lora_r}; take at most {most}"
        )


def reference_within(network: PreTrainedModel, settings: TextSettings) -> Reference | None:
    """The model that is named as reference, where the network holds it: as its base, or as a LoRA
    that is loaded on that. None where it has to be a network of its own.

    Raises UserError where the LoRA does not fit.
    """
    name, options = str(settings.ref_model_name_or_path), settings.hub_options
    here = str(network.name_or_path)
    if settings.splits_base:
        return None  # what is beneath is no longer the model
    if is_same(name, here):
        return BaseModel() if AdapterCopy.frozen in network.peft_config else AdapterOff()
    base = base_of(name, options)
    if not (base and is_same(base, here) and is_beside(name, options)):
        return None
    if AdapterCopy.frozen in network.peft_config:
        network.delete_adapter(AdapterCopy.frozen)
    device = next(network.parameters()).device
    place = f"--ref_model_name_or_path {name}"
    try:
        attach(network, name, place, options, AdapterCopy.frozen)
    except UserError:
        raise
    except Exception as error:  # of every kind: its files may hold anything
        raise UserError(*reasons(name, place, error)) from error
    network.set_adapter(ADAPTER)
    for each, weight in network.named_parameters():
        if AdapterCopy.frozen in each.split("."):
            weight.requires_grad_(False)
            weight.data = weight.data.to(device)
    check_finite(network, place)
    without_dropout(network)
    return OtherAdapter(name)


def is_same(name: str, other: str) -> bool:
    """Whether two names are those of one folder or hub id."""
    places = [Path(each) for each in (name, other)]
    if all(place.is_dir() for place in places):
        return places[0].resolve() == places[1].resolve()
    return name == other


def is_beside(name: str, options: dict[str, Any]) -> bool:
    """Whether an adapter leaves the weights beneath it as they are: one of LoRA's own factors
    alone, which does not begin as a part of them."""
    where = {key: options[key] for key in ("revision", "cache_dir")}
    config: Any = PeftConfig.from_pretrained(name, **where)
    if isinstance(getattr(config, "init_lora_weights", True), str):
        return False
    return all(".lora_" in key for key in load_peft_weights(name, device="cpu", **where))


def is_tied(network: PreTrainedModel) -> bool:
    """Whether the output head has the weights of the embedding."""
    head: Any = network.get_output_embeddings()
    words: Any = network.get_input_embeddings()
    return head is not None and head.weight is words.weight


def wrapped(network: PreTrainedModel) -> list[ModulesToSaveWrapper]:
    """The modules that are trained whole, with the ones that they are copies of."""
    return [module for module in network.modules() if isinstance(module, ModulesToSaveWrapper)]


def check_saved(network: PreTrainedModel, settings: TextSettings) -> None:
    """Raises UserError where a module that is to be trained whole is in few bits."""
    weights = (weight for module in wrapped(network) for weight in module.parameters())
    if not all(is_plain(weight) for weight in weights):
        raise UserError(
            f"--lora_modules_to_save: {' '.join(settings.lora_modules_to_save)} are in few bits by"
            f" {settings.bits_flag}, and cannot be trained; embed_tokens and lm_head are whole"
        )


def compared(network: PreTrainedModel) -> list[torch.nn.Parameter]:
    """The weights by which policy and reference differ: those of adapters, and of modules that are
    trained whole, with the ones that they are copies of. Both must be rounded alike."""
    names = {ADAPTER, AdapterCopy.frozen}
    found = [w for name, w in network.named_parameters() if names & {*name.split(".")}]
    return [*found, *(weight for module in wrapped(network) for weight in module.parameters())]


def in_float32(network: PreTrainedModel) -> None:
    """Put in float32 what policy and reference differ by."""
    for weight in compared(network):
        if is_plain(weight):
            weight.data = weight.data.float()


def write_adapter(network: PreTrainedModel, settings: TextSettings, folder: Path) -> None:
    """Write the adapter as peft loads it on the model as it was.

    One that began as a part of the weights beneath it is written less its first state, as a LoRA of
    twice the rank: [B, −B₀] [A; A₀]. So does peft's own conversion.
    """
    config: Any = copy.copy(network.peft_config[ADAPTER])
    if not settings.splits_base and not getattr(config, "ensure_weight_tying", False):
        network.save_pretrained(folder)
        return
    state = adapter_state(network, ADAPTER)
    if settings.splits_base:
        scale = 2**0.5 if config.use_rslora else 2  # so that the factor before B A stays
        config.r, config.lora_alpha = 2 * config.r, config.lora_alpha * scale
        config.init_lora_weights, first = True, adapter_state(network, AdapterCopy.frozen)
        for name, weight in state.items():
            if ".lora_A." in name:
                state[name] = torch.cat([weight, first[name]], dim=0)
            elif ".lora_B." in name:
                state[name] = torch.cat([weight, -first[name]], dim=1)
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def adapter_state(network: PreTrainedModel, adapter: str) -> dict[str, torch.Tensor]:
    """The weights of an adapter under the names of peft's files, tied ones by each of their names,
    which transformers leaves out and peft looks for."""
    state = get_peft_model_state_dict(network, adapter_name=adapter)
    return {
        PREFIX + name.removeprefix(PREFIX): weight.detach().cpu().clone().contiguous()
        for name, weight in state.items()
    }
