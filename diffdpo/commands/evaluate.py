"""Compares an image policy with its reference: win rate, implicit accuracy, pictures, report."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from diffdpo.data.bundled import is_bundled
from diffdpo.engine.console import say
from diffdpo.engine.run_config import trained_on
from diffdpo.engine.run_folder import writable
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.comparison import (
    Accuracy,
    draw_pictures,
    implicit_accuracy,
    judge,
    picture_page,
)
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.inputs import MODEL, open_pairs, open_pipeline
from diffdpo.image.pairs import FrameSettings
from diffdpo.image.policy import load_policy
from diffdpo.image.sample import as_png, save_picture
from diffdpo.metrics import REWARDS
from diffdpo.metrics.intervals import Estimate
from diffdpo.report.evaluation import publish, say_what_is_left_out
from diffdpo.report.page import Report
from diffdpo.report.plots import accuracy_by_timestep

Rows = dict[str, dict[str, Any]]  # the figures of each reward
SPLIT = "dataset_split_name"
# The style judge knows the bundled pictures only.
WITHOUT_A_JUDGE = ["colourfulness", "jpeg_compressibility"]


def main(settings: EvaluateSettings) -> int:
    """Load, sample, score, write; returns the exit code."""
    say_what_is_left_out()
    folder = writable(settings.output_dir)
    torch.set_flush_denormal(True)  # for speed, as in training
    settings, backbone = resolved(settings)
    # Rewards and pairs before anything is sampled: what is missing stops the command at once.
    rewards = {name: REWARDS[name]() for name in settings.reward}
    # Without flips and random crops, and with ties dropped: an accuracy needs a winner.
    pairs = open_pairs(settings, FrameSettings(settings.seed, settings.resolution or 0))
    pairs.check(quiet=False)
    network, reference = load_policy(backbone, str(settings.policy), settings.unet_init)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.pipeline.to(device)
    prompts = list(dict.fromkeys(pairs.prompts()))[: settings.num_prompts]
    pictures = draw_pictures(settings, backbone, network, reference, prompts)
    rows = judge(pictures, rewards, settings.seed)
    accuracy = None
    if settings.implicit_draws:
        accuracy = implicit_accuracy(settings, backbone, pairs, network, reference, device)
    page = picture_page(pictures)
    save_picture(page, folder / "sheet.png")

    def fill(report: Report) -> None:
        compose(report, settings.reward[0], rows, as_png(page), accuracy)

    lines = summary(settings.reward[0], rows, accuracy)
    publish(folder, str(settings.policy), settings, figures(rows, accuracy), fill, lines)
    return 0


def resolved(settings: EvaluateSettings) -> tuple[EvaluateSettings, Backbone]:
    """Every setting at its final value, and the model, which decides some of them.

    Prints a line where the pairs are those that the run was trained on.
    """
    settings, backbone = open_pipeline(settings)
    say(*trained_on(settings.policy, settings.dataset_name, settings.dataset_split_name, SPLIT))
    ours = is_bundled(str(settings.pretrained_model_name_or_path), MODEL)
    default = list(REWARDS)[:3] if ours else WITHOUT_A_JUDGE
    return replace(settings, reward=settings.reward or default), backbone


def figures(rows: Rows, accuracy: Accuracy | None) -> dict[str, Any]:
    """The content of evaluation.json, with the first reward's win rate on top."""
    first = next(iter(rows))
    top = {"win_rate": rows[first]["win_rate"], "reward": first, "rewards": rows}
    return {**top, "implicit_accuracy": accuracy} if accuracy else top


def summary(reward: str, rows: Rows, accuracy: Accuracy | None) -> list[str]:
    """The result in a few lines, to print."""
    rate: Estimate = rows[reward]["win_rate"]
    low, high = rate.interval
    doubt = "" if low > 0.5 or high < 0.5 else " (not significant: the interval holds 50 %)"
    lines = []
    if accuracy:
        lines.append(f"implicit     {accuracy.estimate.percent()} accuracy on held-out pairs")
    lines.append(
        f"win rate     {rate.percent()} by {reward}, {rate.n} pictures of {rate.clusters}"
        f" prompts{doubt}"
    )
    return lines


def compose(
    report: Report, reward: str, rows: Rows, page: bytes, accuracy: Accuracy | None
) -> None:
    """Fill the report with result, pictures and tables."""
    rate: Estimate = rows[reward]["win_rate"]
    report.headline(
        f"Win rate {rate.percent()}",
        "Share of pictures on which the policy scores higher, by"
        f" {reward}, {rate.n} pictures of {rate.clusters} held-out prompts, same seeds, ties as"
        " 1/2.",
    )
    report.section("Before and after", "The same prompts and the same starting noise.")
    report.picture(page, "reference beside policy")
    report.section("Rewards", "95 % intervals by bootstrap over prompts.")
    header = ["reward", "win rate", "reference", "policy", "difference"]
    report.table(header, [reward_row(name, row) for name, row in rows.items()])
    if accuracy:
        report.section("Held-out implicit accuracy", accuracy.estimate.percent())
        buckets = accuracy.by_timestep
        report.plot(lambda: accuracy_by_timestep(buckets), "accuracy by timestep")


def reward_row(name: str, row: dict[str, Any]) -> list[str]:
    """The row of one reward in the report's table."""
    low, high = row["difference"].interval
    difference = f"{row['difference'].value:+.3g} [{low:+.3g}, {high:+.3g}]"
    means = [f"{row[key]:.4g}" for key in ("reference_mean", "policy_mean")]
    return [name, row["win_rate"].percent(), *means, difference]
