"""The lines at the start of an image run: what will happen."""

from __future__ import annotations

import math
from typing import Any

from diffdpo.data.columns import listed
from diffdpo.engine.trainer import Trainer
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.needs import memory_line
from diffdpo.image.noise import Flow, Process
from diffdpo.image.pairs import ImagePairs
from diffdpo.image.settings import ImageSettings
from diffdpo.reference import unwrapped


def image_facts(
    settings: ImageSettings,
    backbone: Backbone,
    process: Process,
    pairs: ImagePairs,
    trainer: Trainer,
) -> dict[str, str]:
    """What will happen, by heading."""
    trained = sum(weight.numel() for weight in trainer.parameters)
    cells = math.prod(backbone.latent_shape(settings.resolution or 0))
    kind = f"LoRA rank {settings.rank}" if settings.is_lora else "full fine-tune"
    lines = {
        "model": (
            f"{settings.pretrained_model_name_or_path} ({type(backbone).__name__},"
            f" {process.prediction_type}, {settings.resolution} px, {settings.mixed_precision}"
            " mixed precision)"
        ),
        "pairs": kept_pairs(settings, pairs),
        "training": f"{trained:,} parameters, {kind}; reference: {trainer.reference.name}",
        "loss": (
            f"{loss_named(settings)}; beta {settings.beta_dpo:g} on the mean over latent dimensions"
            f" = {settings.beta_dpo / cells:.3g} on their sum{in_nats(settings, process, cells)}"
        ),
        **flow_line(settings, backbone, process),
        **trainer.plan("pairs"),
        "memory": memory_line(settings, backbone, networks_of(trainer), trained),
    }
    if pairs.tally.unread_columns:
        lines["not read"] = f"columns {listed(pairs.tally.unread_columns)}"
    prompts = list(dict.fromkeys(pairs.prompts()))
    if cut := backbone.cut_prompts(prompts):
        lines["prompts"] = (
            f"{cut:,} of {len(prompts):,} prompts are longer than {backbone.longest_prompt} tokens"
            " and are cut"
        )
    if pairs.tally.unreadable:
        lines["skipped"] = "; ".join(pairs.tally.unreadable[:3])
    return lines


def in_nats(settings: ImageSettings, process: Process, cells: int) -> str:
    """Beta on the log-likelihood of a flow, in the middle of its way: β/2D.

    NELBO = ∫ (1−t)/t · ‖v − v̂‖² dt, summed over D dimensions; at t = ½ the weight is 1, and the
    score has half of the mean.
    """
    nats = f" = {settings.beta_dpo / (2 * cells):.3g} in nats at t = ½"
    return nats if isinstance(process, Flow) else ""


def flow_line(settings: ImageSettings, backbone: Backbone, process: Process) -> dict[str, str]:
    """Which t a flow model is trained at, with which weight, and at which guidance."""
    if not isinstance(process, Flow):
        return {}
    low, high = settings.timestep_range
    line = (
        f"{settings.weighting_scheme} in {low:g} to {high:g}, shift {process.shift:g}; weight"
        f" {settings.timestep_weight}"
    )
    if backbone.network.config.get("guidance_embeds"):
        line += f"; guidance {backbone.guidance_off:g}, an input of the network"
    return {"t": line}


def networks_of(trainer: Trainer) -> list[Any]:
    """The network that is trained and, where it is another, that of the reference."""
    own = unwrapped(trainer.model)
    with trainer.reference.network(trainer.model) as frozen:
        return [own] if frozen is own else [own, frozen]


def loss_named(settings: ImageSettings) -> str:
    """The losses with their weights, and the safeguard."""
    weights = settings.loss_weights or [1.0] * len(settings.loss_type)
    terms = zip(weights, settings.loss_type, strict=True)
    named = " + ".join(name if weight == 1 else f"{weight:g} {name}" for weight, name in terms)
    mu = settings.winner_safeguard
    return named if mu is None else f"{named}, winner safeguard {mu:g}"


def kept_pairs(settings: ImageSettings, pairs: ImagePairs) -> str:
    """What became of the rows of the data set."""
    tally = pairs.tally
    ties = f"{tally.ties} ties {'dropped' if settings.ties == 'drop' else 'kept as 50:50 labels'}"
    unread = (
        f"{len(tally.unreadable)} unreadable"
        if tally.checked
        else "images checked as they are read"
    )
    counts = [(tally.without_prompt, "without a prompt")]
    counts += [(tally.several_captions, "with a list of captions, one of them drawn")]
    bare = "".join(f", {count} {what}" for count, what in counts if count)
    coin = "; LABELS TOSSED BY COIN" if settings.random_labels else ""
    return (
        f"{len(pairs):,} of {tally.rows:,} rows; {ties}, {tally.unlabelled} unlabelled{bare},"
        f" {unread}{coin}"
    )
