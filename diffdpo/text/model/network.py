"""Makes a language model trainable, as LoRA, a loaded adapter or with all weights, and makes the
reference that belongs to it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn
from transformers import PreTrainedModel

from diffdpo.engine.accelerator import DTYPES
from diffdpo.engine.averages import MovingAverage, MovingReference
from diffdpo.engine.checkpoint import trainable
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
from diffdpo.text.flags.reference_settings import FACTORS
from diffdpo.text.model.adapters import (
    add_lora,
    compared,
    is_adapter,
    reference_within,
    train_further,
    wrapped,
)
from diffdpo.text.model.loading import Storage, kept_whole, load_model
from diffdpo.text.scoring.padding_free import make_flexible, pack_rows, reads_packed
from diffdpo.text.scoring.router import router_balance
from diffdpo.text.scoring.scorer import TokenScorer, prove_head, prove_steady
from diffdpo.text.settings import TextSettings
from diffdpo.text.vision.models import freeze_sight


def make_trainable(
    network: PreTrainedModel, settings: TextSettings, device: torch.device
) -> TokenScorer:
    """The scorer of the network, ready to train on ``device``.

    Trained weights are float32 whatever the precision; those frozen under adapters follow it, or
    are in the bits that the settings ask for.

    Raises UserError where these are asked for and the network has no layer that can be in them.
    """
    make_flexible(network)
    scorer = TokenScorer(network, settings.sharing)
    scorer.balance = router_balance(network, settings.router_aux_loss_coef)
    prove_head(scorer, str(settings.model_name_or_path))
    if is_adapter(network):
        train_further(network, settings)
    elif settings.use_peft:
        add_lora(network, settings)
    without_dropout(network)  # after the adapters: a loaded one brings a rate of its own
    prove_steady(scorer, str(settings.model_name_or_path))
    if not is_adapter(network):
        # One that is handed over in memory may come frozen; without adapters all is trained.
        network.requires_grad_(True)
        if settings.freeze_vision_tower:
            freeze_sight(network)
    beside = compared(network) if is_adapter(network) else []
    settle(network, device, DTYPES[settings.mixed_precision or "no"], beside)
    lower(scorer, settings)
    if reads_packed(network, settings.padding_free):
        pack_rows(scorer, DTYPES[settings.mixed_precision or "no"])
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
        trained = [part for module in wrapped(network) for part in module.modules()]
        store_in_fp8(network, kept_whole(network) + trained)
    if all(is_plain(weight) for weight in network.parameters()):
        raise UserError(
            f"{settings.bits_flag}: {type(network).__name__} has no linear layers that can be"
            " stored in it; take --base_precision bf16"
        )
    leave_to_each_process(scorer)


def save_activations(network: PreTrainedModel, settings: TextSettings) -> None:
    """Let activations be computed again, where that is asked for."""
    if settings.gradient_checkpointing:
        options = {
            # The reentrant form needs an input with gradient, which frozen embeddings do not give.
            "use_reentrant": False,
            # What ends in the middle of a layer would leave its weights cast.
            "early_stop": settings.base_bits != "fp8",
        }
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", FutureWarning
            )  # of the name, the only one in older versions
            network.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def make_reference(
    scorer: TokenScorer,
    settings: TextSettings,
    reference_free: bool,
    made: Maker = lambda make: make(),
    copied: Callable[[nn.Module], nn.Module] = copy.deepcopy,
    apart: bool = False,
) -> Reference:
    """The reference: zero for reference-free losses, the model that the settings name, or the
    network as it is now, by the cheapest means that the way of training allows.

    ``made`` makes another model, and ``copied`` a frozen copy. ``apart``: one that is named is a
    network of its own also where it is beneath the adapters, or another one on the same.

    Raises UserError where another model cannot be loaded.
    """
    network = scorer.network
    if reference_free:
        return Zero()
    if settings.sync_ref_model:
        return mixed_reference(scorer, settings)
    if settings.ref_model_name_or_path:
        name = settings.ref_model_name_or_path
        within = reference_within(network, settings) if is_adapter(network) and not apart else None
        if within:
            return within
        (other,) = made(lambda: (other_model(name, network, settings),))
        return OtherModel(other, name)
    if not is_adapter(network):
        # Stored scores are computed before the first step, when the network still is its reference.
        return InitialNetwork() if settings.precompute_ref_log_probs else FrozenCopy(scorer, copied)
    return AdapterCopy() if AdapterCopy.frozen in network.peft_config else AdapterOff()


def mixed_reference(scorer: TokenScorer, settings: TextSettings) -> MovingReference:
    """The reference that the policy is mixed into (TR-DPO).

    Raises UserError where that is an adapter and is not taken over whole.
    """
    if is_adapter(scorer.network) and settings.mixup_alpha != 1:
        raise UserError(FACTORS)
    weights, keep = trainable(scorer), 1 - settings.mixup_alpha
    return MovingReference(MovingAverage(weights, keep, settings.sync_steps))


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
    make_flexible(other)
    scorer = TokenScorer(other, settings.sharing)
    prove_head(scorer, name)
    prove_steady(scorer, name)
    settle(other, device, dtype)
    if adapted:
        lower(scorer, settings)
    if reads_packed(other, settings.padding_free):
        pack_rows(scorer, DTYPES[settings.mixed_precision or "no"])
    return scorer
