"""Policy against reference: win rate with interval, held-out implicit accuracy, picture sheet,
report."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from diffdpo.config import BaseSettings, flag, one_of, parse
from diffdpo.data.source import open_dataset
from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.engine.run_folder import writable
from diffdpo.image.backbones import load_backbone
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.defaults import hub_options, name_bundled, resolve_resolution
from diffdpo.image.noise import ForwardProcess
from diffdpo.image.pairs import FrameSettings, ImagePairs, image_pairs
from diffdpo.image.policy import load_policy
from diffdpo.image.sample import SampleSettings, as_png, sample, save_picture, seeds_for, sheet
from diffdpo.image.settings import ImageDataSettings
from diffdpo.image.task import DrawSettings, ImageTask
from diffdpo.metrics import REWARDS
from diffdpo.metrics.implicit import by_timestep, implicit_margins, overall
from diffdpo.metrics.intervals import Estimate, clustered_mean, win_rate
from diffdpo.reference import Reference
from diffdpo.report.page import Report
from diffdpo.report.plots import accuracy_by_timestep

SHEET_ROWS = 24


@dataclass
class EvaluateSettings(ImageDataSettings, BaseSettings):
    """All flags of ``evaluate.py``."""

    policy: str | None = flag(None, "the output folder of a finished run")
    output_dir: str = flag("runs/evaluation", "where evaluation.json, sheet.png and report.html go")
    dataset_split_name: str = flag("test", "split of the held-out pairs", aliases=["--split"])
    reward: list[str] = flag([], "rows of diffdpo.metrics.REWARDS; the first gives the win rate")
    num_prompts: int = flag(120, "at most so many distinct prompts of the held-out pairs")
    images_per_prompt: int = flag(2, "seeds a prompt")
    num_inference_steps: int = flag(20, "sampling steps")
    guidance_scale: float = flag(3.0, "classifier-free guidance")
    sample_batch_size: int = flag(16, "pictures sampled at once")
    implicit_draws: int = flag(
        10, "draws (timestep, noise) a held-out pair; 0 leaves the accuracy out"
    )
    seed: int = flag(0, "of the starting noise and the draws")

    def problems(self) -> list[str]:
        found = [] if self.policy else ["--policy is needed: the output folder of a finished run"]
        for name in self.reward:
            found += one_of("reward", name, list(REWARDS))
        for name in (
            "num_prompts",
            "images_per_prompt",
            "num_inference_steps",
            "sample_batch_size",
        ):
            if getattr(self, name) < 1:
                found.append(f"--{name} must be at least 1, got {getattr(self, name)}")
        if self.implicit_draws < 0:
            found.append(f"--implicit_draws must be 0 or more, got {self.implicit_draws}")
        return found


def main(argv: list[str]) -> int:
    """Load, sample, score, write; returns the exit code."""
    settings, notices = parse(EvaluateSettings, argv)
    say(*notices)
    own_model = settings.pretrained_model_name_or_path is not None
    name_bundled(settings)
    settings.reward = settings.reward or (
        ["colourfulness", "jpeg_compressibility"] if own_model else list(REWARDS)[:3]
    )
    folder = writable(settings.output_dir)
    torch.set_flush_denormal(True)
    rewards = {name: REWARDS[name]() for name in settings.reward}
    name = settings.pretrained_model_name_or_path or ""
    backbone = load_backbone(
        name, settings.pretrained_vae_model_name_or_path, **hub_options(settings)
    )
    resolve_resolution(settings, backbone)
    pairs = held_out(settings)
    network, reference = load_policy(backbone, str(settings.policy))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    backbone.pipeline.to(device)
    prompts = list(dict.fromkeys(pairs.prompts()))[: settings.num_prompts]
    shown = repeat(prompts, settings.images_per_prompt)
    before, after = pictures(settings, backbone, network, reference, shown)
    found = {"policy": settings.policy, **scores(settings, rewards, shown, before, after)}
    if settings.implicit_draws:
        found["implicit_accuracy"] = implicit(settings, backbone, pairs, network, reference, device)
    found["settings"] = asdict(settings)
    write_atomically(folder / "evaluation.json", json.dumps(found, indent=2) + "\n")
    every = settings.images_per_prompt
    page = picture_page(prompts, before[::every], after[::every])
    save_picture(page, folder / "sheet.png")
    write_report(settings, found, page, folder)
    tell(found, settings.reward[0], folder)
    return 0


def held_out(settings: EvaluateSettings) -> ImagePairs:
    """The pairs to report on, ties dropped, never mirrored."""
    name = settings.dataset_name or ""
    dataset = open_dataset(
        name, settings.dataset_split_name, settings.dataset_config_name, settings.cache_dir
    )
    frame_at = FrameSettings(settings.seed, settings.resolution or 0)
    pairs = image_pairs(dataset, frame_at, name, (settings.image_column, settings.caption_column))
    pairs.check(quiet=False)
    return pairs


def repeat(prompts: list[str], times: int) -> list[str]:
    """Every prompt ``times`` times in a row."""
    return [prompt for prompt in prompts for _ in range(times)]


def pictures(
    settings: EvaluateSettings,
    backbone: Backbone,
    network: nn.Module,
    reference: Reference,
    prompts: list[str],
) -> tuple[list[Image.Image], list[Image.Image]]:
    """Reference's and policy's pictures at the same prompts and seeds."""
    seeds = seeds_for(settings.seed, len(prompts))
    steps, guidance = settings.num_inference_steps, settings.guidance_scale
    how = SampleSettings(steps, guidance, settings.sample_batch_size, settings.resolution)
    with reference.network(network) as frozen:
        before = sample(backbone, frozen, prompts, seeds, how, "sampling reference")
    return before, sample(backbone, network, prompts, seeds, how, "sampling policy")


def scores(
    settings: EvaluateSettings,
    rewards: dict[str, Any],
    prompts: list[str],
    before: list[Image.Image],
    after: list[Image.Image],
) -> dict[str, Any]:
    """Win rate and mean difference under every reward; the first reward's win rate stands on
    top."""
    table = {}
    for name, reward in rewards.items():
        old, new = np.asarray(reward(before, prompts)), np.asarray(reward(after, prompts))
        table[name] = {
            "win_rate": win_rate(new, old, prompts, settings.seed).as_dict(),
            "difference": clustered_mean((new - old).tolist(), prompts, settings.seed).as_dict(),
            "reference_mean": float(old.mean()),
            "policy_mean": float(new.mean()),
        }
    first = settings.reward[0]
    return {"win_rate": table[first]["win_rate"], "reward": first, "rewards": table}


def implicit(
    settings: EvaluateSettings,
    backbone: Backbone,
    pairs: ImagePairs,
    network: nn.Module,
    reference: Reference,
    device: torch.device,
) -> dict[str, Any]:
    """Held-out implicit accuracy, overall and by timestep, in float32."""
    process = ForwardProcess(backbone.pipeline.scheduler.config, settings.is_turbo)
    draws = DrawSettings(
        settings.seed, settings.resolution or 0, vae_chunk=settings.vae_encode_batch_size
    )
    task = ImageTask(backbone, process, draws, device, nullcontext)
    found = implicit_margins(
        pairs, task, network, reference, settings.implicit_draws, settings.sample_batch_size
    )
    buckets = by_timestep(found, process.timesteps, settings.seed)
    return {
        **overall(found, settings.seed).as_dict(),
        "draws": settings.implicit_draws,
        "by_timestep": buckets,
    }


def picture_page(
    prompts: list[str], before: list[Image.Image], after: list[Image.Image]
) -> Image.Image:
    """Two sheets side by side, so that the page is about as wide as tall."""
    rows = list(zip(prompts, zip(before, after, strict=True), strict=True))[:SHEET_ROWS]
    half = -(-len(rows) // 2)
    sides = [sheet(part, ["reference", "policy"]) for part in (rows[:half], rows[half:]) if part]
    page = Image.new(
        "RGB", (sum(s.width for s in sides) + 20 * (len(sides) - 1), sides[0].height), "white"
    )
    for index, side in enumerate(sides):
        page.paste(side, (index * (sides[0].width + 20), 0))
    return page


def estimate(found: dict[str, Any]) -> Estimate:
    """An estimate back from its JSON form."""
    return Estimate.from_dict(found)


def tell(found: dict[str, Any], reward: str, folder: Path) -> None:
    """The result in a few lines."""
    rate = estimate(found["win_rate"])
    doubt = (
        ""
        if rate.interval[0] > 0.5 or rate.interval[1] < 0.5
        else " (not significant: the interval holds 50 %)"
    )
    if "implicit_accuracy" in found:
        say(
            f"implicit     {estimate(found['implicit_accuracy']).percent()} accuracy on held-out"
            " pairs"
        )
    say(
        f"win rate     {rate.percent()} by {reward}, {rate.n} pictures of {rate.clusters}"
        f" prompts{doubt}"
    )
    say(f"report       {folder / 'report.html'}")


def write_report(
    settings: EvaluateSettings, found: dict[str, Any], page: Image.Image, folder: Path
) -> None:
    """report.html: result, pictures, tables, curves, settings."""
    rate, run = estimate(found["win_rate"]), Path(str(settings.policy))
    report = Report(f"{run.name}: policy against reference")
    how = (
        f"by {settings.reward[0]}, {rate.n} pictures of {rate.clusters} held-out prompts, same"
        " seeds, ties as 1/2"
    )
    report.headline(
        f"Win rate {rate.percent()}", f"Share of pictures on which the policy scores higher, {how}."
    )
    report.section("Before and after", "The same prompts and the same starting noise.")
    report.picture(as_png(page), "reference beside policy")
    report.section("Rewards", "95 % intervals by bootstrap over prompts.")
    header = ["reward", "win rate", "reference", "policy", "difference"]
    report.table(header, [reward_row(name, row) for name, row in found["rewards"].items()])
    if "implicit_accuracy" in found:
        report.section("Held-out implicit accuracy", estimate(found["implicit_accuracy"]).percent())
        report.picture(
            accuracy_by_timestep(found["implicit_accuracy"]["by_timestep"]), "accuracy by timestep"
        )
    report.about_run(run, found["settings"])
    report.save(folder / "report.html")


def reward_row(name: str, row: dict[str, Any]) -> list[str]:
    """One reward in the report's table."""
    low, high = estimate(row["difference"]).interval
    difference = f"{row['difference']['value']:+.3g} [{low:+.3g}, {high:+.3g}]"
    means = [f"{row[key]:.4g}" for key in ("reference_mean", "policy_mean")]
    return [name, estimate(row["win_rate"]).percent(), *means, difference]
