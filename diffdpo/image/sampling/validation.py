"""Pictures during training, of policy and reference at the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from accelerate import Accelerator
from torch import nn

from diffdpo.engine.sharding import is_sharded
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.sampling.sample import PictureSettings, sample, save_picture, seeds_for, sheet
from diffdpo.image.settings import ImageSettings
from diffdpo.reference import Reference

SHOWN = 8  # prompts of the data, where none are given


class ValidationPictures:
    """Writes ``validation/step-N.png`` and gives it to the trackers, from the main process."""

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
        self.seeds = seeds_for(settings.seed, len(self.prompts))
        self.accelerator = accelerator
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
        rows = list(zip(self.prompts, zip(self.before, after, strict=True), strict=True))
        page = sheet(rows, ["reference", f"policy, step {done}"])
        save_picture(page, Path(self.settings.output_dir) / "validation" / f"step-{done}.png")
        for tracker in self.accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({"validation": np.asarray(page)[None]}, step=done, **layout)

    def pictures(self, network: nn.Module) -> list:
        """Pictures of the prompts by one network."""
        steps, guidance = self.settings.num_inference_steps, self.settings.guidance_scale
        sampling = PictureSettings(steps, guidance, resolution=self.settings.resolution)
        return sample(self.backbone, network, self.prompts, self.seeds, sampling)


def first_distinct(texts: Iterable[str], count: int) -> list[str]:
    """The first ``count`` texts that differ; no more are read than that takes."""
    found: dict[str, None] = {}
    for text in texts if count else ():
        found[text] = None
        if len(found) == count:
            break
    return list(found)
