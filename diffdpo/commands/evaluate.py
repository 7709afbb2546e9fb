"""Compares image policies with their reference: win rates, implicit accuracy, pictures, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch

from diffdpo.engine.accelerator import DTYPES
from diffdpo.engine.console import say
from diffdpo.engine.crew import crew
from diffdpo.engine.labels import REFERENCE
from diffdpo.engine.run_config import run_of
from diffdpo.engine.run_folder import writable
from diffdpo.engine.trained_on import overlap
from diffdpo.evaluation import people
from diffdpo.evaluation.findings import Findings, Judges, Standing, summary
from diffdpo.evaluation.job import Evaluation, Models, prepared, sampled
from diffdpo.evaluation.layouts import export
from diffdpo.evaluation.page import compose
from diffdpo.evaluation.scores import Scores, between
from diffdpo.evaluation.wins import best_of, diversity, drift
from diffdpo.image.bundled import draws_emoji
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.reading.inputs import open_to_sample
from diffdpo.image.sampling.comparison import (
    Accuracy,
    picture_page,
    preferred_pictures,
    scored,
    traits,
)
from diffdpo.image.sampling.sample import as_png, save_picture
from diffdpo.image.sampling.samples import INDEX, write_lines
from diffdpo.metrics import open_rewards
from diffdpo.metrics.diversity import Tower, open_tower
from diffdpo.metrics.judged import faced
from diffdpo.metrics.made_by import headline_of, judges_of
from diffdpo.metrics.reward import Reward
from diffdpo.report.evaluation import look_ahead, publish, writing
from diffdpo.report.page import Report

SCORES = "scores.jsonl"
# The style judge knows the bundled pictures only.
WITHOUT_A_JUDGE = ["colourfulness", "jpeg_compressibility"]
MIDDLE = "Of clips of {} frames the middle one is shown and judged."


def main(settings: EvaluateSettings, alone: bool = False) -> int:
    """Load, sample, score, write; returns the exit code.

    ``alone``: in this process, whatever a launcher says.
    """
    for run in settings.runs:
        look_ahead(run_of(run))
    folder = writable(settings.output_dir)
    torch.set_flush_denormal(True)  # for speed, as in training
    with crew(alone) as team:
        settings, models = resolved(settings, team.device)
        made = {name for run in settings.policy for name in judges_of(run)}
        headline = headline_of(settings.reward, made, settings.headline)
        # Judges, pairs and votes before anything is sampled: what is missing stops the command at
        # once.
        judges = open_judges(settings, team.device) if team.first else None
        job = prepared(settings, models.first, folder, headline, made)
        votes = people.read_votes(settings.votes, job.names) if settings.votes else []
        accuracies = sampled(job, models, team)
        if judges is not None:
            rewards, tower = judges
            scores, lines = scores_of_all(job, rewards)
            found = findings(job, rewards, tower, scores, accuracies)
            if votes:
                found = replace(found, votes=people.figures(votes, job.names, settings.seed))
            with writing(folder):
                write(job, found, lines)
    return 0


def resolved(settings: EvaluateSettings, device: torch.device) -> tuple[EvaluateSettings, Models]:
    """Every setting at its final value, and the model, which decides some of them.

    Prints a line where the reference is not the one of training.
    """
    settings, backbone = open_to_sample(settings, device, settings.base_precision)
    say(*(f"note         {line}" for line in settings.departures))
    ours = draws_emoji(str(settings.pretrained_model_name_or_path))
    default = ["style", *WITHOUT_A_JUDGE] if ours else WITHOUT_A_JUDGE
    return replace(settings, reward=settings.reward or default), Models(backbone)


def open_judges(
    settings: EvaluateSettings, device: torch.device
) -> tuple[dict[str, Reward], Tower]:
    """The rewards, and what measures how much pictures differ."""
    precision = DTYPES[settings.reward_precision]
    rewards = open_rewards(settings.reward, settings.reward_paths, device, precision)
    return rewards, open_tower(settings.diversity_model, device, precision)


def scores_of_all(
    job: Evaluation, rewards: Mapping[str, Reward]
) -> tuple[Scores, list[dict[str, Any]]]:
    """The scores of all pictures, and the line of each picture with its own."""
    by_label, lines, best = {}, [], {}
    count = len(job.pictures)
    for label in job.names:
        album = job.album(label)
        side = "policy" if label != REFERENCE and len(job.entrants) == 1 else label
        pictures = [*job.pictures, *(job.more if label == REFERENCE else [])]
        columns = {
            name: scored(
                name, reward, side, pictures, album.files(pictures), job.settings.reward_batch_size
            )
            for name, reward in rewards.items()
        }
        lines += [
            album.line(picture) | {name: float(column[row]) for name, column in columns.items()}
            for row, picture in enumerate(pictures)
        ]
        by_label[label] = {name: column[:count] for name, column in columns.items()}
        if label == REFERENCE and (of := job.settings.best_of):
            best = {
                name: best_of(column[:count], column[count:], job.plan.times, of)
                for name, column in columns.items()
            }
    prompts = [picture.prompt for picture in job.pictures]
    files = {label: job.album(label).files(job.pictures) for label in job.names}
    # Two at a time where a judge can: models are surer of a difference than of points.
    seen = {
        (name, other, one): faced(
            reward, files[other], files[one], prompts, job.settings.reward_batch_size,
            f"judging {other} against {one} by {name}",
        )
        for name, reward in rewards.items()
        if reward.versus
        for one, other in combinations(job.names, 2)
    }  # fmt: skip
    return Scores(prompts, by_label, best, job.settings.seed, seen), lines


def standings(
    job: Evaluation, tower: Tower, scores: Scores, accuracies: Mapping[str, Accuracy]
) -> list[Standing]:
    """What was found about each policy."""
    seed, prompts, batch = job.settings.seed, job.plan.prompts, job.settings.reward_batch_size
    first = job.album(REFERENCE).files(job.pictures)
    reference = traits(first, first, tower, batch)
    found = []
    for one in job.entrants:
        own = traits(job.album(one.label).files(job.pictures), first, tower, batch)
        found.append(
            Standing(
                one,
                scores.rows(one.label),
                accuracies.get(one.label),
                overlap(run_of(one.run), prompts),
                overlap(run_of(one.run), job.pairs.prompts()) if job.pairs else None,
                diversity(own, reference, prompts, job.plan.times, seed),
                drift(own, reference, scores.prompts, seed),
            )
        )
    return found


def findings(
    job: Evaluation,
    rewards: Mapping[str, Reward],
    tower: Tower,
    scores: Scores,
    accuracies: Mapping[str, Accuracy],
) -> Findings:
    """All that is told of the evaluation."""
    judges = Judges(
        job.headline,
        {name: reward.identity for name, reward in rewards.items()},
        sorted(job.made_pairs & set(rewards)),
        {name: reward.too_long(job.plan.prompts) for name, reward in rewards.items()},
    )

    return Findings(
        standings(job, tower, scores, accuracies),
        judges,
        between=between(scores, job.headline),
        tower=tower.name,
        sampled=job.sampled,
        prompts=len(job.plan.prompts),
        best_of=job.settings.best_of,
    )


def write(job: Evaluation, found: Findings, lines: Sequence[dict[str, Any]]) -> None:
    """Print the result and write everything that is kept of it."""
    settings, folder = job.settings, job.folder
    own = ("policy", "prompt", "prompt_index", "seed", "file")
    write_lines(folder / INDEX, ({name: line[name] for name in own} for line in lines))
    write_lines(folder / SCORES, lines)
    firsts = [picture for picture in job.pictures if picture.number == 0]
    names = job.names
    heads = names if len(job.entrants) > 1 else [REFERENCE, "policy"]
    columns = {
        head: job.album(label).files(firsts) for head, label in zip(heads, names, strict=True)
    }
    shown = preferred_pictures(job.pairs, job.plan.prompts) if job.pairs else {}
    page = picture_page(job.plan.prompts, columns, shown)
    data = f"Pairs: {settings.dataset_name}, split {settings.dataset_split_name}."
    notes = [data] if job.pairs else ["Pairs: none, so there is no implicit accuracy."]
    notes += [f"Prompts: {settings.prompts}."] if settings.prompts else []
    notes += [MIDDLE.format(settings.num_frames)] if (settings.num_frames or 1) > 1 else []

    def fill(report: Report) -> None:
        compose(report, found, as_png(page), [*notes, *settings.departures])

    start = None if settings.reference == "base" else settings.init_lora or settings.unet_init
    base = str(start or settings.pretrained_model_name_or_path)
    save_picture(page, folder / "sheet.png")
    albums = [job.album(label) for label in names]
    source = settings.prompts or settings.dataset_name
    say(*export(settings.export, folder, albums, job.pictures, source))
    publish(folder, settings.policy, base, settings, found.as_dict(), fill, summary(found))
