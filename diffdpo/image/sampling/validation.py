"""Pictures during training, of policy and reference at the same prompts and seeds, and how much
those of a prompt differ from each other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import nn

from diffdpo.engine.console import say
from diffdpo.engine.journal import Journal
from diffdpo.engine.sharding import is_sharded
from diffdpo.engine.watch.watch import told
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.sampling.sample import PictureSettings, sample, save_picture, seeds_for, sheet
from diffdpo.image.settings import ImageSettings
from diffdpo.metrics.diversity import Change, diversity_change, pixel_embedding
from diffdpo.reference import Reference

SHOWN = 8  # prompts of the data, where none are given


class ValidationPictures:
    """Writes ``validation/step-N.png`` and gives it to the trackers, from the main process.

    Of two pictures or more of each prompt, ``validation/diversity.jsonl`` has how much they differ.
    """

    def __init__(
        self,
        settings: ImageSettings,
        backbone: Backbone,
        network: nn.Module,
        reference: Reference,
        prompts: Iterable[str],
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.backbone, self.network = settings, backbone, network
        shown = SHOWN if settings.run_validation else 0
        self.prompts = settings.validation_prompts or first_distinct(prompts, shown)
        self.times = settings.num_validation_images
        # All prompts once, and again: the first pictures are those of any number of them.
        self.seeds = seeds_for(settings.seed, len(self.prompts) * self.times)
        self.accelerator = accelerator
        self.folder = Path(settings.output_dir) / "validation"
        self.before: list = []
        # Where weights are in shares, no process can run the network alone.
        self.samples = accelerator.is_main_process or is_sharded(accelerator)
        if settings.run_validation and self.samples:
            # Now, before the first step: with stored scores there is no reference network later.
            with reference.network(network) as frozen:
                self.before = self.pictures(frozen)

    def due(self, done: int) -> bool:
        """Every ``validation_steps`` steps."""
        return self.settings.run_validation and done % self.settings.validation_steps == 0

    def measure(self, done: int) -> None:
        """Sample."""
        self.show(done)

    def final(self, done: int) -> None:
        """Sample at the end, unless this step already did."""
        if self.settings.run_validation and not self.due(done):
            self.show(done)

    def show(self, done: int) -> None:
        """Write one sheet: reference on the left, policy on the right."""
        after = self.pictures(self.network) if self.samples else []
        if not self.accelerator.is_main_process:
            return
        both = zip(self.of_each_prompt(self.before), self.of_each_prompt(after), strict=True)
        rows = [(text, [*own, *new]) for text, (own, new) in zip(self.prompts, both, strict=True)]
        columns = ["reference"] * self.times + [f"policy, step {done}"] * self.times
        page = sheet(rows, columns)
        save_picture(page, self.folder / f"step-{done}.png")
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": np.asarray(page)[None]}, step=done, **layout)
        if self.times > 1:
            self.compare(done, after)

    def compare(self, done: int, after: list) -> None:
        """Write down and print how much the pictures of a prompt differ, beside the reference's;
        the first time that they hardly do, say what to do."""
        own_PKD, before_PKD = (
            np.stack([pixel_embedding(some) for some in self.of_each_prompt(pictures)])
            for pictures in (after, self.before)
        )
        change = diversity_change(own_PKD, before_PKD, self.settings.seed)
        journal = Journal(self.folder / "diversity.jsonl")
        journal.keep_until(done - 1)  # a resumed run samples again
        earlier = [line["collapsed"] for line in journal.read()]
        journal.append([{"step": done, **as_figures(change), "collapsed": change.collapsed}])
        self.accelerator.log(as_figures(change), step=done)
        if change.collapsed and not any(earlier):
            say(told("collapse", done, str(change)))
        else:
            say(f"diversity    step {done}: {change}")

    def of_each_prompt(self, pictures: list) -> list[list]:
        """The pictures of each prompt, in the order of their seeds."""
        return [pictures[place :: len(self.prompts)] for place in range(len(self.prompts))]

    def pictures(self, network: nn.Module) -> list:
        """Pictures of the prompts by one network."""
        steps, guidance = self.settings.num_inference_steps, self.settings.guidance_scale
        sampling = PictureSettings(steps, guidance, resolution=self.settings.resolution)
        return sample(self.backbone, network, self.prompts * self.times, self.seeds, sampling)


def as_figures(change: Change) -> dict[str, float]:
    """The figures for the trackers; no bound of a single prompt."""
    figures = {f"diversity/{name}": value for name, value in asdict(change).items()}
    return {name: value for name, value in figures.items() if math.isfinite(value)}


def first_distinct(texts: Iterable[str], count: int) -> list[str]:
    """The first ``count`` texts that differ; no more are read than that takes."""
    found: dict[str, None] = {}
    for text in texts if count else ():
        found[text] = None
        if len(found) == count:
            break
    return list(found)
