"""Compares an image policy with its reference: win rate, implicit accuracy, pictures, report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from diffdpo.engine.accelerator import DTYPES, sampling_device
from diffdpo.engine.console import say
from diffdpo.engine.run_config import run_of
from diffdpo.engine.run_folder import writable
from diffdpo.engine.trained_on import Overlap, overlap
from diffdpo.image.adapter_settings import AdapterSettings
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.bundled import draws_emoji
from diffdpo.image.clip_length import settle_frames
from diffdpo.image.comparison import (
    Accuracy,
    draw_pictures,
    implicit_accuracy,
    judge,
    picture_page,
)
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.framing import FrameSettings
from diffdpo.image.inputs import open_pairs, open_to_sample
from diffdpo.image.network import lower
from diffdpo.image.policy import load_policy
from diffdpo.image.sample import PictureSettings, as_png, check_sampling, save_picture
from diffdpo.metrics import REWARDS, open_rewards
from diffdpo.metrics.intervals import Estimate
from diffdpo.report.evaluation import look_ahead, publish, writing
from diffdpo.report.page import Report
from diffdpo.report.plots import accuracy_by_timestep

Rows = dict[str, dict[str, Any]]  # the figures of each reward
# The style judge knows the bundled pictures only.
WITHOUT_A_JUDGE = ["colourfulness", "jpeg_compressibility"]
MIDDLE = "Of clips of {} frames the middle one is shown and judged."
GLOSS = "How often the policy's own reward, log π − log π_ref, is larger for the chosen picture."


@dataclass(frozen=True)
class Findings:
    """What an evaluation found, and on what."""

    rows: Rows  # the first reward's win rate is the headline
    accuracy: Accuracy | None
    prompts: Overlap  # of the pictures' prompts with the training set
    pairs: Overlap  # the same of the prompts of the pairs

    @property
    def reward(self) -> str:
        """The first reward."""
        return next(iter(self.rows))

    @property
    def win_rate(self) -> Estimate:
        """The first reward's win rate."""
        rate: Estimate = self.rows[self.reward]["win_rate"]
        return rate


def main(settings: EvaluateSettings) -> int:
    """Load, sample, score, write; returns the exit code."""
    look_ahead(run_of(str(settings.policy)))
    folder = writable(settings.output_dir)
    torch.set_flush_denormal(True)  # for speed, as in training
    device = sampling_device()
    settings, backbone = resolved(settings, device)
    # Rewards and pairs before anything is sampled: what is missing stops the command at once.
    precision = DTYPES[settings.reward_precision]
    rewards = open_rewards(settings.reward, settings.reward_paths, device, precision)
    # Without flips and random crops, and with ties dropped: an accuracy needs a winner.
    pairs = open_pairs(settings, FrameSettings(settings.seed, settings.resolution or 0))
    settle_frames(pairs, backbone, settings.num_frames)
    settings = replace(settings, num_frames=backbone.num_frames)
    count = 2 * min(settings.num_prompts, len(set(pairs.prompts()))) * settings.images_per_prompt
    check_sampling(backbone, count, PictureSettings.of(settings))
    pairs.check(quiet=False)
    start = AdapterSettings(
        unet_init=settings.unet_init, init_lora=settings.init_lora, reference=settings.reference
    )
    network, reference = load_policy(backbone, str(settings.policy), start)
    lower(network, settings.base_precision)
    backbone.pipeline.to(device)
    prompts = list(dict.fromkeys(pairs.prompts()))[: settings.num_prompts]
    run = str(settings.policy)
    overlaps = [overlap(run_of(run), texts) for texts in (prompts, pairs.prompts())]
    pictures = draw_pictures(settings, backbone, network, reference, prompts)
    rows = judge(pictures, rewards, settings.seed, settings.reward_batch_size)
    accuracy = None
    if settings.implicit_draws:
        accuracy = implicit_accuracy(settings, backbone, pairs, network, reference, device)
    found = Findings(rows, accuracy, *overlaps)
    page = picture_page(pictures)
    clips = [MIDDLE.format(backbone.num_frames)] if backbone.num_frames > 1 else []

    def fill(report: Report) -> None:
        data = f"Pairs: {settings.dataset_name}, split {settings.dataset_split_name}."
        compose(report, found, as_png(page), [data, *clips, *settings.departures])

    start = None if settings.reference == "base" else settings.init_lora or settings.unet_init
    base = str(start or settings.pretrained_model_name_or_path)
    with writing(folder):
        publish(folder, run, base, settings, figures(found), fill, summary(found))
        save_picture(page, folder / "sheet.png")
    return 0


def resolved(settings: EvaluateSettings, device: torch.device) -> tuple[EvaluateSettings, Backbone]:
    """Every setting at its final value, and the model, which decides some of them.

    Prints a line where the reference is not the one of training.
    """
    settings, backbone = open_to_sample(settings, device, settings.base_precision)
    say(*(f"note         {line}" for line in settings.departures))
    ours = draws_emoji(str(settings.pretrained_model_name_or_path))
    default = list(REWARDS)[:3] if ours else WITHOUT_A_JUDGE
    return replace(settings, reward=settings.reward or default), backbone


def figures(found: Findings) -> dict[str, Any]:
    """The content of evaluation.json, with the first reward's win rate on top."""
    top = {"win_rate": found.win_rate, "reward": found.reward, "rewards": found.rows}
    top["trained_on"] = {"prompts": found.prompts.as_dict(), "pairs": found.pairs.as_dict()}
    return {**top, "implicit_accuracy": found.accuracy} if found.accuracy else top


def verdict(found: Findings) -> str:
    """The win rate and all that it has to be read with."""
    rate = found.win_rate
    return (
        f"{rate.percent()} by {found.reward}, {rate.n} pictures of {found.prompts}"
        f"{rate.doubt(0.5, '50 %')}"
    )


def accuracy_line(found: Findings, estimate: Estimate) -> str:
    """The implicit accuracy and all that it has to be read with."""
    return f"{estimate.percent()} accuracy on {estimate.n} pairs of {found.pairs}"


def summary(found: Findings) -> list[str]:
    """The result in a few lines, to print."""
    lines = []
    if found.accuracy:
        lines.append(f"implicit     {accuracy_line(found, found.accuracy.estimate)}")
    return [*lines, f"win rate     {verdict(found)}"]


def compose(report: Report, found: Findings, page: bytes, notes: list[str]) -> None:
    """Fill the report with result, ``notes`` on it, pictures and tables."""
    report.headline(
        f"Win rate {verdict(found)}",
        "Share of pictures on which the policy scores higher, same seeds, ties as 1/2.",
    )
    report.notes(notes)
    report.section("Before and after", "The same prompts and the same starting noise.")
    report.picture(page, "reference beside policy")
    report.section("Rewards", "95 % intervals over prompts.")
    header = ["reward", "win rate", "reference", "policy", "difference"]
    report.table(header, [reward_row(name, row) for name, row in found.rows.items()])
    if found.accuracy:
        report.section("Implicit accuracy", accuracy_line(found, found.accuracy.estimate))
        report.notes([GLOSS])
        buckets = found.accuracy.by_timestep
        report.plot(lambda: accuracy_by_timestep(buckets), "accuracy by timestep")


def reward_row(name: str, row: dict[str, Any]) -> list[str]:
    """The row of one reward in the report's table."""
    low, high = row["difference"].interval
    difference = f"{row['difference'].value:+.3g} [{low:+.3g}, {high:+.3g}]"
    means = [f"{row[key]:.4g}" for key in ("reference_mean", "policy_mean")]
    return [name, row["win_rate"].percent(), *means, difference]
