"""Pictures of training runs at the same prompts and seeds, kept in the folder of the votes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from diffdpo.annotate.settings import AnnotateSettings
from diffdpo.config import settings_of
from diffdpo.engine.accelerator import sampling_device
from diffdpo.engine.console import say
from diffdpo.engine.crew import Crew
from diffdpo.engine.files import write_atomically
from diffdpo.engine.labels import labels
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.model.network import lower
from diffdpo.image.model.policy import load_policy, move
from diffdpo.image.reading.inputs import open_to_sample, prompts_to_sample
from diffdpo.image.sampling import sampled_by
from diffdpo.image.sampling.sample import PictureSettings, check_steps
from diffdpo.image.sampling.samples import INDEX, Album, Plan, write_lines

FACTS = "samples.json"  # which pictures the folder holds, as far as that is told without a model
OURS = ["num_inference_steps", "guidance_scale", "images_per_prompt", "seed"]


def sampled(settings: AnnotateSettings) -> Path:
    """The folder with the pictures of the runs that the settings name. Those that are there are not
    sampled again.

    Raises UserError where a run cannot be sampled, or the folder holds pictures of other runs.
    """
    folder = writable(str(settings.output_dir))
    runs = [run_settings(settings, name) for name in settings.names]
    prompts = prompts_to_sample(runs[0])[: settings.num_prompts]
    facts: dict[str, Any] = {name: getattr(settings, name) for name in OURS}
    facts |= {"prompts": prompts, "runs": [sampled_by.weights(name) for name in settings.names]}
    check_facts(folder / FACTS, facts)
    if (folder / INDEX).is_file():
        return folder
    plan = Plan(prompts, settings.images_per_prompt, settings.seed)
    albums = [Album(folder, label) for label in labels(settings.names)]
    say(f"pictures     {len(plan.pictures):,} of each run, {settings.num_inference_steps} steps;"
        f" {folder / 'samples'}")  # fmt: skip
    for album, run in zip(albums, runs, strict=True):
        fill(album, run, plan, facts)
    lines = [album.line(picture) for album in albums for picture in plan.pictures]
    write_lines(folder / INDEX, lines)
    return folder


def run_settings(settings: AnnotateSettings, run: str) -> EvaluateSettings:
    """The settings under which a run is sampled: ours, and what it recorded."""
    ours = {name: getattr(settings, name) for name in (*OURS, "sample_batch_size", "prompts")}
    if settings.dataset_split_name is not None:
        ours["dataset_split_name"] = settings.dataset_split_name
    return settings_of(EvaluateSettings, policy=[run], **ours)


def check_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write the facts down. Raises UserError where others are there: there may be votes on the
    pictures."""
    text = json.dumps(facts, indent=1) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"--output_dir {path.parent}: holds pictures of other runs, prompts or settings; take"
            " another folder"
        )
    write_atomically(path, text)


def fill(album: Album, run: EvaluateSettings, plan: Plan, facts: dict[str, Any]) -> None:
    """Sample the pictures of a run that are not there yet."""
    album.prepare(facts)
    torch.set_flush_denormal(True)  # for speed, as in training
    team = Crew(sampling_device())
    run, backbone = open_to_sample(run, team.device, run.base_precision)
    backbone.num_frames = run.num_frames or 1
    sampling = PictureSettings.of(run)
    check_steps(backbone, sampling)
    network, _ = load_policy(backbone, run.policy[0], run.start_of(run.policy[0]))
    lower(network, run.base_precision)
    move(backbone, team.device)
    album.fill(backbone, network, [plan.pictures], sampling, team)
