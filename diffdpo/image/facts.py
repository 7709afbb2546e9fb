"""The lines at the start of an image run: what will happen."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import numpy as np

from diffdpo.data.columns import listed
from diffdpo.data.made_pairs import foreign
from diffdpo.engine.trainer import Trainer
from diffdpo.errors import short
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.needs import memory_line
from diffdpo.image.pictures.side_columns import SEEDS
from diffdpo.image.process.noise import Flow, Process
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.reading.streamed import StreamedPairs
from diffdpo.image.settings import ImageSettings
from diffdpo.reference import unwrapped

LOOKED_AT = 5000  # pairs whose prompts are looked at before training: of a million it takes long


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
    alpha = f", alpha {settings.lora_alpha:g}" if settings.lora_alpha else ""
    kind = f"LoRA rank {settings.rank}{alpha}" if settings.is_lora else "full fine-tune"
    size = f"{settings.resolution} px"
    size += f" x {backbone.num_frames} frames" if backbone.num_frames > 1 else ""
    lines = {
        "model": (
            f"{settings.pretrained_model_name_or_path} ({type(backbone).__name__},"
            f" {process.prediction_type}, {size}, {settings.mixed_precision}"
            " mixed precision)"
        ),
        "pairs": kept_pairs(settings, pairs),
        "training": f"{trained:,} parameters, {kind}; reference: {trainer.reference.name}",
        "loss": (
            f"{loss_named(settings)}; beta {beta_in_units(settings.beta, cells, backbone.is_flow)}"
        ),
        **t_line(settings, backbone, process),
        **trainer.plan.lines("pairs"),
        "memory": memory_line(settings, backbone, networks_of(trainer), trained),
    }
    return lines | remarks(settings, backbone, pairs)


def remarks(settings: ImageSettings, backbone: Backbone, pairs: ImagePairs) -> dict[str, str]:
    """What is to be said of some pairs and not of others, by heading."""
    lines = {}
    if beside := beside_read(settings, pairs):
        lines["read too"] = beside
    unread = pairs.tally.unread_columns
    if others := foreign(unread, unread):
        lines["not read"] = f"columns {listed(others)}"
    if isinstance(pairs, StreamedPairs):
        lines["streaming"] = pairs.table.line(len(pairs))
    if line := cut_line(backbone, pairs):
        lines["prompts"] = line
    if pairs.tally.unreadable:
        lines["skipped"] = "; ".join(pairs.tally.unreadable[:3])
    return lines


def cut_line(backbone: Backbone, pairs: ImagePairs) -> str:
    """How many of the first prompts lose their end; '' where none does."""
    some = isinstance(pairs, StreamedPairs) or len(pairs) > LOOKED_AT
    prompts = list(dict.fromkeys(islice(pairs.each_prompt(), LOOKED_AT)))
    cut, first = backbone.cut_prompts(prompts), "the first " if some else ""
    if not cut:
        return ""
    longest = backbone.longest_prompt
    return (
        f"{cut:,} of {first}{len(prompts):,} prompts are longer than {longest} tokens and are cut"
    )


def beside_read(settings: ImageSettings, pairs: ImagePairs) -> str:
    """What is read beside pictures, prompts and labels, and what it is for."""
    beside = pairs.beside
    parts = []
    if beside.gaps is not None:
        gaps = np.abs(beside.gaps[pairs.rows])
        parts.append(f"gaps of {settings.score_column}, {gaps.mean():.3g} in the mean")
    if beside.seeds is not None:
        parts.append("every picture's own noise, by its seed")
    if beside.masks is not None:
        parts.append(f"masks of column {short(settings.mask_column, 40)}")
    if set(SEEDS) <= set(pairs.tally.unread_columns):
        parts.append("seed_0 and seed_1 are there, and would be with --given_noise")
    return "; ".join(parts)


def beta_in_units(beta: float, cells: int, is_flow: bool) -> str:
    """Beta on the mean over latent dimensions, on their sum, and for flows in nats at t = ½."""
    units = f"{beta:g} on the mean over latent dimensions = {beta / cells:.3g} on their sum"
    # There the bound of the likelihood, (1−t)/t times the summed error, weighs an error by 1, and
    # the score halves it.
    return f"{units} = {beta / (2 * cells):.3g} nats at t = 1/2" if is_flow else units


def t_line(settings: ImageSettings, backbone: Backbone, process: Process) -> dict[str, str]:
    """Which t a flow model is trained at, with which weight, and at which guidance; for the others
    which timesteps, where not all are."""
    low, high = settings.timestep_range
    if not isinstance(process, Flow):
        whole = (low, high) == (0, 1)
        return {} if whole else {"t": f"uniform in {low:g} to {high:g} of the timesteps"}
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
    traps = f", {tally.traps}" if tally.traps and str(tally.traps) else ""
    what = "rows" if tally.rankings is None else f"pairs of {tally.rankings:,} rankings"
    coin = "; LABELS TOSSED BY COIN" if settings.random_labels else ""
    return (
        f"{len(pairs):,} of {tally.rows:,} {what}; {ties}, {tally.unlabelled} unlabelled{bare},"
        f" {unread}{traps}{coin}"
    )
