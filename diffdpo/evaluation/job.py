"""What is settled before an evaluation samples, and the sampling itself."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from diffdpo.engine.console import say
from diffdpo.engine.crew import Crew
from diffdpo.engine.labels import REFERENCE
from diffdpo.errors import UserError
from diffdpo.evaluation.scores import Entrant, entrants
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.model.network import lower
from diffdpo.image.model.policy import load_policy, move
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.clip_length import settle_frames
from diffdpo.image.reading.inputs import open_pairs, open_to_sample, prompts_to_sample
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.sampling import sampled_by
from diffdpo.image.sampling.comparison import Accuracy, implicit_accuracy
from diffdpo.image.sampling.sample import PictureSettings, check_steps
from diffdpo.image.sampling.samples import Album, Plan, Planned
from diffdpo.metrics.significance import resolution

FILES_OF_START = ("unet_init", "init_lora")


@dataclass(frozen=True)
class Evaluation:
    """All that is settled before anything is sampled."""

    settings: EvaluateSettings
    folder: Path
    entrants: list[Entrant]
    headline: str
    made_pairs: set[str]  # rewards that made training pairs of a policy
    pairs: ImagePairs | None
    plan: Plan
    more: list[Planned]  # further pictures of the reference, of which the best is taken
    sampled: Mapping[str, Any]  # how pictures are sampled, for the report

    @property
    def pictures(self) -> list[Planned]:
        """Those of every policy."""
        return self.plan.pictures

    @property
    def names(self) -> list[str]:
        """The labels of reference, policies and control."""
        return [REFERENCE, *(one.label for one in self.entrants)]

    def is_sampled(self, entrant: Entrant) -> bool:
        """Whether the pictures that are made with this policy are there already."""
        groups = {entrant.label: self.pictures}
        if entrant is self.entrants[0]:
            groups[REFERENCE] = [*self.pictures, *self.more]
        return not any(self.album(label).missing([wanted]) for label, wanted in groups.items())

    def album(self, label: str) -> Album:
        """The pictures of a policy or of the reference."""
        return Album(self.folder, label)


class Models:
    """The model, loaded anew for every policy but the first: loading a policy changes it.

    Nothing else holds on to one, so that there is never more than one of them in memory.
    """

    def __init__(self, first: Backbone) -> None:
        self.unused = [first]

    @property
    def first(self) -> Backbone:
        """The one that was loaded first, until it is taken."""
        return self.unused[0]

    def take(self, settings: EvaluateSettings, team: Crew) -> Backbone:
        """A model that no policy has been loaded into."""
        if self.unused:
            return self.unused.pop()
        _, backbone = open_to_sample(settings, team.device, settings.base_precision)
        backbone.num_frames = settings.num_frames or 1
        return backbone


def prepared(
    settings: EvaluateSettings, backbone: Backbone, folder: Path, headline: str, made: set[str]
) -> Evaluation:
    """Pairs, prompts and the pictures to be made. Says what they can show.

    Raises UserError for what cannot be read, or would not fit on the disk.
    """
    pairs = None
    if settings.dataset_name is not None:
        # Without flips and random crops, and with ties dropped: an accuracy needs a winner.
        pairs = open_pairs(settings, FrameSettings(settings.seed, settings.resolution or 0))
        settle_frames(pairs, backbone, settings.num_frames)
    elif backbone.frame_factor is not None:
        backbone.num_frames = settings.num_frames or backbone.native_frames or 1
    settings = replace(settings, num_frames=backbone.num_frames)
    texts = prompts_to_sample(settings, pairs)[: settings.num_prompts]
    who = entrants(settings.policy, settings.control)
    each = len(texts) * settings.images_per_prompt
    extra = len(texts) * max(0, (settings.best_of or 0) - settings.images_per_prompt)
    sampling = PictureSettings.of(settings)
    check_steps(backbone, sampling)
    check_disk(folder, backbone, each * (1 + len(who)) + extra, sampling)
    if pairs is not None:
        pairs.check(quiet=False)
    plan = Plan(texts, settings.images_per_prompt, settings.seed)
    say(f"power        {resolution(len(texts))} of a win rate")
    say(f"pictures     {each * (1 + len(who)) + extra:,} in {folder / 'samples'}, of"
        f" {REFERENCE}, {', '.join(one.label for one in who)}")  # fmt: skip
    how = sampled_by.sampler(backbone, sampling)
    more = plan.more(settings.best_of or 0)
    return Evaluation(settings, folder, who, headline, made, pairs, plan, more, how)


def check_disk(folder: Path, backbone: Backbone, count: int, settings: PictureSettings) -> None:
    """Raise UserError where so many pictures would not fit on the disk of ``folder``."""
    side = settings.resolution or backbone.native_resolution
    needed, free = count * side**2, shutil.disk_usage(folder).free  # a PNG is a third of its pixels
    if needed > free:
        raise UserError(
            f"{count:,} pictures of {side} pixels need about {needed / 2**30:,.0f} GiB of disk,"
            f" {folder} has {free / 2**30:,.0f}, and {settings.steps * count:,} sampling steps;"
            " take fewer prompts or pictures of each"
        )


def sampled(job: Evaluation, models: Models, team: Crew) -> dict[str, Accuracy]:
    """Sample all pictures that are not there; returns the implicit accuracies, by label."""
    facts: dict[str, Any] = {}
    if team.first:
        facts = sampled_by.model(models.first, job.settings) | dict(job.sampled) | job.plan.facts()
    found = {}
    for entrant in job.entrants:
        accuracy = sampled_by_one(job, entrant, models, facts, team)
        if accuracy is not None:
            found[entrant.label] = accuracy
    team.wait()
    return found


def sampled_by_one(
    job: Evaluation, entrant: Entrant, models: Models, facts: dict[str, Any], team: Crew
) -> Accuracy | None:
    """Sample the pictures of one policy, and with the first one those of the reference; returns
    its implicit accuracy in the first process, where that is asked for."""
    settings, is_first = job.settings, entrant is job.entrants[0]
    start, sampling = settings.start_of(entrant.run), PictureSettings.of(settings)
    if team.first:
        begun = {name: sampled_by.weights(getattr(start, name)) for name in FILES_OF_START}
        key = facts | begun | {"reference": start.reference}
        if is_first:
            job.album(REFERENCE).prepare(key)
        job.album(entrant.label).prepare(key | {"policy": sampled_by.weights(entrant.run)})
    team.wait()  # nobody samples before the folders are ready
    judges = team.first and job.pairs is not None and settings.implicit_draws > 0
    if not judges and job.is_sampled(entrant):
        return None
    backbone = models.take(settings, team)
    network, reference = load_policy(backbone, entrant.run, start)
    lower(network, settings.base_precision)
    move(backbone, team.device, reference)
    if is_first:
        with reference.network(network) as frozen:
            groups = [job.pictures, job.more]
            job.album(REFERENCE).fill(backbone, frozen, groups, sampling, team)
    job.album(entrant.label).fill(backbone, network, [job.pictures], sampling, team)
    if not judges or job.pairs is None:
        return None
    return implicit_accuracy(settings, backbone, job.pairs, network, reference, team.device)
