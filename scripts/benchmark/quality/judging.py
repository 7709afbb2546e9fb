"""One judge for every program: the weights that a run wrote, on captions that it did not see.

All are sampled by the same code at the same seeds and captions, beside the base model's pictures.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffdpo.data.bundled import bundled
from diffdpo.engine.files import write_atomically
from diffdpo.evaluation.scores import shares
from diffdpo.evaluation.wins import compared
from diffdpo.image.backbones.base import Backbone
from diffdpo.image.bundled import PAIRS
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.model.policy import load_policy, move
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.inputs import open_pairs, open_to_sample
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.sampling.comparison import implicit_accuracy
from diffdpo.image.sampling.sample import PictureSettings, sample, seeds_for
from diffdpo.metrics import open_rewards
from diffdpo.metrics.difficulty import reference_gap
from diffdpo.metrics.diversity import between_seeds, pixel_embedding
from diffdpo.metrics.intervals import clustered_share
from diffdpo.metrics.reward import Reward
from scripts.benchmark.quality.tasks import Task

JUDGE = "style"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Looks:
    """The scores of ``N`` pictures, and how much those of each of ``P`` captions differ; None of
    one picture a caption."""

    scores_N: np.ndarray
    diversity_P: np.ndarray | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        differ = None if self.diversity_P is None else self.diversity_P.tolist()
        return {"scores": self.scores_N.tolist(), "diversity": differ}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Looks:
        """What ``as_dict`` wrote."""
        differ = content["diversity"]
        return cls(np.array(content["scores"]), None if differ is None else np.array(differ))


@dataclass
class Judge:
    """Judges weights of one task on one split. ``folder`` keeps what the base model's pictures
    are like."""

    task: Task
    split: str
    captions: int
    draws: int  # of every held-out pair, for the implicit accuracy
    sampling_steps: int
    folder: Path
    times: int = 1  # pictures of each caption
    device: torch.device = CPU
    at_once: int = 16  # pictures that are sampled together
    by_pair: bool = False  # whether each pair's own numbers are told as well

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
            sample_batch_size=self.at_once,
            mixed_precision="no",
        )

    @cached_property
    def base(self) -> Backbone:
        """The base model, which nobody changes."""
        return open_to_sample(self.settings, self.device)[1]

    def backbone(self) -> Backbone:
        """A copy of the base model: a policy that is loaded changes it."""
        return copy.deepcopy(self.base)

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
        return open_rewards([JUDGE], {}, self.device, torch.float32)[JUDGE]

    @cached_property
    def captions_of(self) -> list[str]:
        """The caption of every picture; those of a caption stand next to each other."""
        return [prompt for prompt in self.prompts for _ in range(self.times)]

    def looks(self, backbone: Backbone, network: Any) -> Looks:
        """What the pictures of a network are like."""
        seeds = seeds_for(self.settings.seed, len(self.captions_of))
        with torch.no_grad():
            pictures = sample(
                backbone, network, self.captions_of, seeds, PictureSettings.of(self.settings)
            )
        scores_N = np.asarray(self.reward(pictures, self.captions_of), dtype=np.float64)
        if self.times < 2:
            return Looks(scores_N, None)
        embedding_PKD = pixel_embedding(pictures).reshape(len(self.prompts), self.times, -1)
        return Looks(scores_N, between_seeds(embedding_PKD))

    @cached_property
    def reference(self) -> Looks:
        """What the base model's pictures are like, sampled once."""
        path = self.folder / f"base-{self.split}.json"
        if not path.exists():
            backbone = self.backbone()
            move(backbone, self.device)
            looks = self.looks(backbone, backbone.network)
            write_atomically(path, json.dumps(looks.as_dict()) + "\n")
        return Looks.from_dict(json.loads(path.read_text()))

    def judge(self, weights: Path, with_pairs: bool = True) -> dict[str, Any]:
        """Win rate over the base model, and the diversity where a caption has several pictures;
        ``with_pairs``, what is found on the held-out pairs as well."""
        before, backbone, seed = self.reference, self.backbone(), self.settings.seed
        network, reference = load_policy(backbone, str(weights))
        move(backbone, self.device, reference)
        after = self.looks(backbone, network)
        wins = shares(after.scores_N, before.scores_N)
        judged = {"win_rate": clustered_share(wins.tolist(), self.captions_of, seed).as_dict()}
        if after.diversity_P is not None and before.diversity_P is not None:
            figure = compared(after.diversity_P, before.diversity_P, self.prompts, seed)
            judged["diversity"] = figure | {"difference": figure["difference"].as_dict()}
        if with_pairs:
            judged |= self.on_pairs(backbone, network, reference)
        return judged

    def on_pairs(self, backbone: Backbone, network: Any, reference: Any) -> dict[str, Any]:
        """Implicit accuracy and its control, the winner's error by the base model and its rise."""
        found = implicit_accuracy(
            self.settings, backbone, self.pairs, network, reference, self.device
        )
        judged = {
            "implicit_accuracy": found.estimate.as_dict(),
            "by_difficulty": found.difficulty.as_dict(),
            "winners_error": found.winner["difference"].value,
            "reference_error": found.winner["reference"],
        }
        if self.by_pair:
            both = {"gap": reference_gap(found.margins), "margin": found.margins.margin_PK}
            judged["pairs"] = {name: values.mean(dim=1).tolist() for name, values in both.items()}
        return judged
