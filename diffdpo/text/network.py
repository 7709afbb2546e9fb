"""Makes a language model trainable, as LoRA, a loaded adapter or with all weights, and makes the
reference that belongs to it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from peft import LoraConfig
from torch import nn
from transformers import PreTrainedModel

from diffdpo.engine.accelerator import DTYPES
from diffdpo.engine.load_once import Maker
from diffdpo.engine.low_bits import is_plain, leave_to_each_process, settle, store_in_fp8
from diffdpo.errors import UserError
from diffdpo.reference import (
    AdapterCopy,
    AdapterOff,
    FrozenCopy,
    InitialNetwork,
    OtherModel,
    Reference,
    Zero,
    without_dropout,
)
from diffdpo.text.loading import ADAPTER, Storage, kept_whole, load_model
from diffdpo.text.router import router_balance
from diffdpo.text.scorer import TokenScorer, prove_head, prove_steady
from diffdpo.text.settings import ALL_LINEAR, TextSettings
from diffdpo.text.vision.models import beside_language, freeze_sight


def is_adapter(network: PreTrainedModel) -> bool:
    """Whether the model has an adapter, loaded with it or added here."""
    return bool(getattr(network, "peft_config", None))


def is_continued(network: PreTrainedModel) -> bool:
    """Whether the adapter was loaded with the model and is trained further."""
    return is_adapter(network) and AdapterCopy.frozen in network.peft_config


def make_trainable(
    network: PreTrainedModel, settings: TextSettings, device: torch.device
) -> TokenScorer:
    """The scorer of the network, ready to train on ``device``.

    Trained weights are float32 whatever the precision; those frozen under adapters follow it, or
    are in the bits that the settings ask for.

    Raises UserError where these are asked for and the network has no layer that can be in them.
    """
    scorer = TokenScorer(network, settings.sharing)
    scorer.balance = router_balance(network, settings.router_aux_loss_coef)
    prove_head(scorer, str(settings.model_name_or_path))
    if is_adapter(network):
        keep_first_adapter(network)
    elif settings.use_peft:
        add_lora(network, settings)
    without_dropout(network)  # after the adapters: a loaded one brings a rate of its own
    prove_steady(scorer, str(settings.model_name_or_path))
    if not is_adapter(network):
        # One that is handed over in memory may come frozen; without adapters all is trained.
        network.requires_grad_(True)
        if settings.freeze_vision_tower:
            freeze_sight(network)
    settle(network, device, DTYPES[settings.mixed_precision or "no"])
    lower(scorer, settings)
    return scorer


def frozen_storage(settings: TextSettings) -> Storage | None:
    """How the weights are loaded that are frozen under adapters; None: in float32."""
    bits, precision = settings.base_bits, settings.mixed_precision or "no"
    # Not in float16, in which some models overflow before autocast keeps them from it.
    if not bits and precision != "bf16":
        return None
    return Storage(
        DTYPES[precision],
        None if bits == "bf16" else bits,
        {"bnb_4bit_compute_dtype": DTYPES[precision]} | settings.four_bits,
        settings.bits_flag,
        settings.use_peft,
    )


def lower(scorer: TokenScorer, settings: TextSettings) -> None:
    """Store what is frozen under adapters in fewer bits, where loading has not done it.

    Raises UserError where no layer is in fewer bits then.
    """
    network, bits = scorer.network, settings.base_bits
    if bits in (None, "bf16"):
        return
    if bits == "fp8":
        store_in_fp8(network, kept_whole(network))
    if all(is_plain(weight) for weight in network.parameters()):
        raise UserError(
            f"{settings.bits_flag}: {type(network).__name__} has no linear layers that can be"
            " stored in it; take --base_precision bf16"
        )
    leave_to_each_process(scorer)


def save_activations(network: PreTrainedModel, settings: TextSettings) -> None:
    """Let activations be computed again, where that is asked for."""
    if settings.gradient_checkpointing:
        # The reentrant form needs an input with gradient, which frozen embeddings do not give.
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={
                "use_reentrant": False,
                # What ends in the middle of a layer would leave its weights cast.
                "early_stop": settings.base_bits != "fp8",
            }
        )


def keep_first_adapter(network: PreTrainedModel) -> None:
    """Make the loaded adapter trainable and add a frozen copy of it, to be the reference."""
    first = ADAPTER
    config: Any = network.peft_config[first]
    if getattr(config, "bias", "none") != "none":
        raise UserError(
            f"--model_name_or_path {network.name_or_path}: its adapter trains biases (bias"
            f" {config.bias}), of which no second copy can be the reference; merge it into its base"
            " model first"
        )
    config.inference_mode = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft warns of a second adapter, which is the point here
        network.add_adapter(config, AdapterCopy.frozen)
    state = (
        network.state_dict()
    )  # the weights themselves: what is copied into them is in the network
    with torch.no_grad():
        for name, weight in state.items():
            if f".{AdapterCopy.frozen}" in name:
                weight.copy_(state[name.replace(f".{AdapterCopy.frozen}", f".{first}")])
    network.requires_grad_(False)
    network.set_adapter(first)


def add_lora(network: PreTrainedModel, settings: TextSettings) -> None:
    """Attach adapters that change nothing at the start, to the language model alone where there are
    other parts. Raises UserError where no layer has the
    names of ``lora_target_modules``."""
    torch.manual_seed(settings.seed)  # one of the two factors of an adapter starts at random
    targets = list(settings.lora_target_modules)
    named: Any = targets[0] if targets == ALL_LINEAR else targets
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        target_modules=named,
        task_type="CAUSAL_LM",
        use_rslora=settings.use_rslora,
        use_dora=settings.use_dora,
        exclude_modules=beside_language(network),
    )
    network.requires_grad_(False)
    try:
        network.add_adapter(config)
    except ValueError as error:
        raise UserError(
            f"--lora_target_modules {' '.join(targets)}: {' '.join(str(error).split())[:200]}"
        ) from error


def make_reference(
    scorer: TokenScorer,
    settings: TextSettings,
    reference_free: bool,
    made: Maker = lambda make: make(),
    copied: Callable[[nn.Module], nn.Module] = copy.deepcopy,
) -> Reference:
    """The reference: zero for reference-free losses, the model that the settings name, or the
    network as it is now, by the cheapest means that the way of training allows.

    ``made`` makes another model, and ``copied`` a frozen copy.

    Raises UserError where another model cannot be loaded.
    """
    network = scorer.network
    if reference_free:
        return Zero()
    if settings.ref_model_name_or_path:
        name = settings.ref_model_name_or_path
        (other,) = made(lambda: (other_model(name, network, settings),))
        return OtherModel(other, name)
    if not is_adapter(network):
        # Stored scores are computed before the first step, when the network still is its reference.
        return InitialNetwork() if settings.precompute_ref_log_probs else FrozenCopy(scorer, copied)
    return AdapterCopy() if is_continued(network) else AdapterOff()


def other_model(name: str, network: PreTrainedModel, settings: TextSettings) -> TokenScorer:
    """The scorer of a reference loaded by its own name, in the precision of frozen weights."""
    adapted = is_adapter(network)
    frozen = frozen_storage(settings) if adapted else None
    frozen = frozen and replace(frozen, adapted=True)
    other = load_model(name, "ref_model_name_or_path", settings, frozen)
    other.requires_grad_(False)
    without_dropout(other)
    device = next(network.parameters()).device
    # Beside a full fine-tune float32 like the policy, so that both sides are rounded alike.
    dtype = DTYPES[settings.mixed_precision or "no"] if adapted else torch.float32
    scorer = TokenScorer(other, settings.sharing)
    prove_head(scorer, name)
    prove_steady(scorer, name)
    settle(other, device, dtype)
    if adapted:
        lower(scorer, settings)
    return scorer
