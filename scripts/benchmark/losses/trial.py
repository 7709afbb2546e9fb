"""One run of the table of losses: trained and judged by a process that does one after another."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from diffdpo.commands.train_diffusion_dpo import ImageObjects, prepare_encodings, train
from diffdpo.config import parse
from diffdpo.data.bundled import bundled
from diffdpo.engine.accelerator import own_state, sampling_device
from diffdpo.engine.run_folder import begin
from diffdpo.image.bundled import PAIRS
from diffdpo.image.settings import ImageSettings
from scripts.benchmark.contestant import Failed
from scripts.benchmark.losses.plan import MODELS, Cell, Conditions
from scripts.benchmark.quality.judging import Judge
from scripts.benchmark.quality.tasks import Row, common_flags, flipped, training_rows

ON_A_CARD = 256  # pictures that are sampled together


@lru_cache(maxsize=1)  # the runs of a share and a seed come one after another
def rows_of(share: float, seed: int) -> Dataset:
    """The training pairs with this share of flipped labels. Scores, for losses of gaps, are what
    the labels say."""
    turn = flipped(share, seed)

    def made(row: Row, number: int) -> Row:
        row = turn(row, number)
        return row | {f"score_{side}": float(row[f"label_{side}"]) for side in (0, 1)}

    return training_rows(made)


class Trials:
    """Carries out runs under the same conditions."""

    def __init__(self, conditions: Conditions) -> None:
        self.conditions, self.work = conditions, Path(conditions.work)
        self.judges: dict[str, Judge] = {}

    @cached_property
    def device(self) -> torch.device:
        """What pictures are sampled on, and networks trained."""
        return sampling_device()

    @property
    def device_name(self) -> str:
        """The name of the card, or cpu."""
        there = self.device.type == "cuda"
        return torch.cuda.get_device_name(self.device) if there else self.device.type

    def judge(self, model: str) -> Judge:
        """The judge of a model's policies, on the test captions."""
        if model not in self.judges:
            own = self.conditions
            folder = self.work / "models" / model
            folder.mkdir(parents=True, exist_ok=True)
            at_once = ON_A_CARD if self.device.type == "cuda" else 16
            self.judges[model] = Judge(
                MODELS[model], "test", own.captions, own.draws, own.sampling_steps, folder,
                own.pictures, self.device, at_once, by_pair=True,
            )  # fmt: skip
        return self.judges[model]

    def settings(self, cell: Cell) -> ImageSettings:
        """The settings of a training: what is encoded is kept for all runs of a model."""
        task = cell.task
        common = common_flags(
            task, bundled(task.model), bundled(PAIRS), task.rates[0], cell.seed,
            self.conditions.steps,
        )  # fmt: skip
        own = {
            "loss_type": cell.loss_type,
            "proportion_empty_prompts": 0.1,
            "precompute_dir": self.work / "encodings",
            "output_dir": self.work / "training" / cell.name,
            "dataloader_num_workers": 0,
            "report_to": "none",
        }
        words = [word for name, value in own.items() for word in (f"--{name}", str(value))]
        every = [*common, *task.text_flags, *words, "--cache_latents"]
        return parse(ImageSettings, every)[0]

    def prepare(self, model: str) -> None:
        """Encode the pairs, and sample the base model, before runs need either at once."""
        settings = self.settings(Cell(model, 0.0, "sigmoid", 0))
        with own_state():
            prepare_encodings(settings, begin(settings), ImageObjects(rows_of(0.0, 0)))
        shutil.rmtree(settings.output_dir, ignore_errors=True)
        _ = self.judge(model).reference

    def carry_out(self, cell: Cell) -> dict[str, Any]:
        """Train and judge; returns what was found. Raises Failed where a run ends early."""
        settings = self.settings(cell)
        folder, begun = Path(settings.output_dir), time.perf_counter()
        shutil.rmtree(folder, ignore_errors=True)
        with own_state():
            rows = ImageObjects(rows_of(cell.share, cell.seed))
            finished = train(settings, begin(settings), rows).finished
        if not finished:
            raise Failed("its training was stopped")
        trained = time.perf_counter()
        found = self.judge(cell.model).judge(folder)
        shutil.rmtree(folder)
        own = {"beta": float(cell.task.beta), "device": self.device_name}
        seconds = {"training": trained - begun, "judging": time.perf_counter() - trained}
        return asdict(cell) | own | {"seconds": seconds} | found
