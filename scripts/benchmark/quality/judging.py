"""One judge for every program: the weights that a run wrote, on captions that it did not see.

All are sampled by the same code at the same seeds and captions, beside the base model's pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffdpo.data.bundled import bundled
from diffdpo.engine.files import write_atomically
from diffdpo.evaluation.wins import shares
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.bundled import PAIRS
from diffdpo.image.comparison import implicit_accuracy
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.framing import FrameSettings
from diffdpo.image.inputs import open_pairs, open_to_sample
from diffdpo.image.pairs import ImagePairs
from diffdpo.image.policy import load_policy
from diffdpo.image.sample import PictureSettings, sample, seeds_for
from diffdpo.metrics import open_rewards
from diffdpo.metrics.intervals import clustered_share
from diffdpo.metrics.reward import Reward
from scripts.benchmark.quality.tasks import Task

JUDGE = "style"
CPU = torch.device("cpu")


@dataclass
class Judge:
    """Judges weights of one task on one split. ``folder`` keeps the base model's scores."""

    task: Task
    split: str
    captions: int
    draws: int  # of every held-out pair, for the implicit accuracy
    sampling_steps: int
    folder: Path

    @cached_property
    def settings(self) -> EvaluateSettings:
        """How pictures are sampled and pairs read."""
        return EvaluateSettings(
            pretrained_model_name_or_path=bundled(self.task.model),
            dataset_name=bundled(PAIRS),
            dataset_split_name=self.split,
            resolution=64,
            max_sequence_length=self.task.text_length,
            num_inference_steps=self.sampling_steps,
            implicit_draws=self.draws,
            mixed_precision="no",
        )

    def backbone(self) -> Backbone:
        """The base model, loaded anew: a policy that is loaded changes it."""
        return open_to_sample(self.settings, CPU)[1]

    @cached_property
    def pairs(self) -> ImagePairs:
        """The held-out pairs of the captions that are sampled; ties are left out."""
        pairs = open_pairs(self.settings, FrameSettings(self.settings.seed, 64))
        if len(pairs) > self.captions:
            pairs.limit(self.captions, self.settings.seed)
        return pairs

    @cached_property
    def prompts(self) -> list[str]:
        """The distinct captions."""
        return list(dict.fromkeys(self.pairs.prompts()))

    @cached_property
    def reward(self) -> Reward:
        """The style judge."""
        return open_rewards([JUDGE], {}, CPU, torch.float32)[JUDGE]

    def scores(self, backbone: Backbone, network: Any) -> np.ndarray:
        """The scores of one picture of each caption."""
        seeds = seeds_for(self.settings.seed, len(self.prompts))
        with torch.no_grad():
            pictures = sample(
                backbone, network, self.prompts, seeds, PictureSettings.of(self.settings)
            )
        return np.asarray(self.reward(pictures, self.prompts), dtype=np.float64)

    @cached_property
    def reference(self) -> np.ndarray:
        """The scores of the base model's pictures, sampled once."""
        path = self.folder / f"reference-{self.split}.json"
        if not path.exists():
            backbone = self.backbone()
            scores = self.scores(backbone, backbone.network)
            write_atomically(path, json.dumps(scores.tolist()) + "\n")
        return np.array(json.loads(path.read_text()))

    def judge(self, weights: Path) -> dict[str, Any]:
        """Win rate over the base model, implicit accuracy, and the rise of the winner's error."""
        before, backbone = self.reference, self.backbone()
        network, reference = load_policy(backbone, str(weights))
        wins = shares(self.scores(backbone, network), before)
        found = implicit_accuracy(self.settings, backbone, self.pairs, network, reference, CPU)
        return {
            "win_rate": clustered_share(wins.tolist(), self.prompts, self.settings.seed).as_dict(),
            "implicit_accuracy": found.estimate.as_dict(),
            "winners_error": found.winner["difference"].value,
        }
