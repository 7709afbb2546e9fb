"""Pictures of training runs at the same prompts and seeds, kept in the folder of the votes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from diffdpo.annotate.settings import SAMPLES, AnnotateSettings
from diffdpo.config import settings_of
from diffdpo.data.prompts import read_prompts
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_folder, tidy, write_atomically
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError
from diffdpo.image.adapter_settings import AdapterSettings
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.framing import FrameSettings
from diffdpo.image.inputs import open_pairs, open_to_sample
from diffdpo.image.policy import load_policy
from diffdpo.image.sample import PictureSettings, as_png, check_sampling, sample, seeds_for

FACTS = "samples.json"
SAME = ["images_per_prompt", "num_inference_steps", "guidance_scale", "sample_batch_size", "seed"]


def sampled(settings: AnnotateSettings) -> Path:
    """The folder with the pictures of the runs that the settings name. What is there already is
    not sampled again.

    Raises UserError where a run cannot be sampled, or the folder holds pictures of other runs.
    """
    folder = writable(str(settings.output_dir))
    runs = [run_settings(settings, name) for name in settings.names]
    names = labels(settings.names)
    prompts = prompts_for(settings, runs[0])
    facts = {"runs": settings.names, "prompts": prompts}
    facts |= {name: getattr(settings, name) for name in SAME}
    check_facts(folder / FACTS, facts)
    (folder / "samples").mkdir(exist_ok=True)
    tidy(folder / "samples", alone=True)
    lines: list[str] = []
    for label, run in zip(names, runs, strict=True):
        place = folder / "samples" / label
        if not place.is_dir():
            draw(place, run, prompts)
        lines += [json.dumps(line, ensure_ascii=False) for line in records(label, run, prompts)]
    write_atomically(folder / SAMPLES, "\n".join(lines) + "\n")
    return folder


def run_settings(settings: AnnotateSettings, run: str) -> EvaluateSettings:
    """The settings under which a run is sampled: ours, and what it recorded."""
    ours = {name: getattr(settings, name) for name in (*SAME, "num_prompts")}
    return settings_of(EvaluateSettings, policy=[run], **ours)


def labels(names: Sequence[str]) -> list[str]:
    """A short name for each run that is also one of a folder."""
    parts = [Path(name).resolve().parts for name in names]
    for length in range(1, max(map(len, parts)) + 1):
        short_ones = ["-".join(part[-length:]).lstrip("/") for part in parts]
        if len(set(short_ones)) == len(short_ones):
            return short_ones
    raise UserError("two of the runs are one folder")


def prompts_for(settings: AnnotateSettings, run: EvaluateSettings) -> list[str]:
    """The distinct prompts: of the file, or of the pairs that the first run names."""
    if settings.prompts is None:
        framing = FrameSettings(run.seed, run.resolution or 0, ties="soft")
        given = open_pairs(run, framing).prompts()
    else:
        given = read_prompts(settings.prompts)
    return list(dict.fromkeys(given))[: settings.num_prompts]


def check_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write the facts down. Raises UserError where others are there."""
    text = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise UserError(
            f"--output_dir {path.parent}: holds pictures of other runs, prompts or settings; take"
            " another folder"
        )
    write_atomically(path, text)


def seeds_of(run: EvaluateSettings, prompts: Sequence[str]) -> list[int]:
    """The seed of every picture."""
    return seeds_for(run.seed, len(prompts) * run.images_per_prompt)


def records(label: str, run: EvaluateSettings, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """The lines of one run in the list of pictures."""
    times = run.images_per_prompt
    return [
        {
            "policy": label,
            "prompt": prompts[place // times],
            "prompt_index": place // times,
            "seed": seed,
            "file": f"samples/{label}/{place // times:05d}-{place % times}.png",
        }
        for place, seed in enumerate(seeds_of(run, prompts))
    ]


def draw(place: Path, run: EvaluateSettings, prompts: Sequence[str]) -> None:
    """Sample all pictures of a run into a folder that is there whole or not at all."""
    torch.set_flush_denormal(True)  # for speed, as in training
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run, backbone = open_to_sample(run, device, run.base_precision)
    start = AdapterSettings(
        unet_init=run.unet_init, init_lora=run.init_lora, reference=run.reference
    )
    sampling = PictureSettings.of(run)
    repeated = [prompt for prompt in prompts for _ in range(run.images_per_prompt)]
    check_sampling(backbone, len(repeated), sampling)
    network, _ = load_policy(backbone, run.policy[0], start)
    backbone.pipeline.to(device)
    seeds = seeds_of(run, prompts)
    pictures = sample(backbone, network, repeated, seeds, sampling, f"sampling {place.name}")
    with atomic_folder(place) as draft:
        for line, picture in zip(records(place.name, run, prompts), pictures, strict=True):
            (draft / Path(line["file"]).name).write_bytes(as_png(picture))
    say(f"sampled      {len(pictures)} pictures of {run.policy[0]}; {place}")
