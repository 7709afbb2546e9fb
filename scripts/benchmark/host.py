"""What a step takes of the host, without a card: the trainer as it is, on latents and embeddings of
real shapes, with a network that costs nothing. CPU time of the training process between the
network's calls: reading, draws, copies, the loss, bookkeeping."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm.auto import tqdm

from diffdpo.commands.train_diffusion_dpo import ImageObjects, train
from diffdpo.config import BaseSettings, settings_of
from diffdpo.engine.accelerator import own_state
from diffdpo.engine.console import say
from diffdpo.engine.run_config import IN_MEMORY
from diffdpo.engine.run_folder import begin
from diffdpo.engine.trainer import Trainer
from diffdpo.flags import flag
from diffdpo.image.settings import ImageSettings
from scripts.benchmark.card import PEAKS, TERA, work_of
from scripts.benchmark.flops import forward_work
from scripts.benchmark.gaps import Gaps
from scripts.benchmark.image_work import pair_rows
from scripts.benchmark.shaped import pipeline
from scripts.benchmark.shapes import BY_NAME, Shape, row_of, thin
from scripts.benchmark.size import Size
from scripts.benchmark.tables import table
from scripts.benchmark.work import fresh_folder

SHARE = 0.3  # of an H100's peak: what a step is reckoned to reach there
SMALL_SIDE = 64  # pixels: latents of 8 x 8, whose arithmetic is nothing
HEAD = (
    "shape",
    "latents",
    "reading and draws in the step",
    "reading and draws by workers",
    "the same on latents of 8 x 8",
    "step on an H100 at 30 %",
    "host's share of it",
)


@dataclass(frozen=True)
class HostSettings(BaseSettings):
    """All flags of ``python scripts/benchmark host``."""

    shapes: list[str] = flag(["sd15", "sdxl", "flux"], "models, by the names of the table")
    pairs: int = flag(4, "pairs a step", least=1)
    steps: int = flag(10, "optimizer steps that are counted", least=2)
    workers: int = flag(2, "processes that read, where they read at all", least=1)
    work_dir: str = flag("runs/host", "folder of data and runs; emptied at the start")


def main(settings: HostSettings) -> int:
    """Measure every shape, print the table."""
    torch.set_num_threads(1)
    folder, rows = fresh_folder(settings.work_dir), []
    for name in tqdm(settings.shapes, unit="shape"):
        shape = row_of(name, BY_NAME)
        stored = work_of("lora", "stored", *forward_work(shape)).flops
        step = stored / (SHARE * PEAKS["H100"] * TERA)
        inside, beside = (
            host_seconds(shape, shape.resolution, workers, settings, folder)
            for workers in (0, settings.workers)
        )
        small = host_seconds(shape, SMALL_SIDE, settings.workers, settings, folder)
        side, channels = shape.resolution // 8, shape.vae.get("latent_channels", 4)
        times = (f"{1000 * seconds:.2f} ms" for seconds in (inside, beside, small))
        shares = f"{beside / step:.1%}", f"{small / step:.1%}"
        rows.append((name, f"{channels} x {side} x {side}", *times, f"{1000 * step:.0f} ms",
                     " to ".join(reversed(shares))))  # fmt: skip
    say("CPU time of the training process a pair:", "", table(HEAD, rows))
    return 0


def host_seconds(
    shape: Shape, resolution: int, workers: int, settings: HostSettings, folder: Path
) -> float:
    """CPU seconds of the training process a pair, outside of network and optimizer."""
    data = folder / f"pairs-{resolution}"
    if not data.exists():
        data.mkdir()
        size = Size(resolution=resolution, pairs=settings.pairs, captions=2)
        Dataset.from_list(pair_rows(size)).to_parquet(data / "train-00000.parquet")
    given = settings_of(
        ImageSettings,
        pretrained_model_name_or_path=IN_MEMORY,
        dataset_name=str(data),
        output_dir=str(folder / f"{shape.name}-{resolution}-{workers}"),
        precompute_dir=str(folder / "tables"),
        resolution=resolution,
        train_batch_size=settings.pairs,
        max_train_steps=settings.steps + 1,
        rank=4,
        no_hflip=True,
        cache_latents=True,
        mixed_precision="no",
        dataloader_num_workers=workers,
        report_to="none",
    )
    made = pipeline(thin(shape, resolution), torch.device("cpu"), torch.float32)
    with own_state(), gaps_of_next() as gaps:
        train(given, begin(given), ImageObjects(pipeline=made))
    return gaps.measure()["host_wall"] / settings.pairs


class StubGaps(Gaps):
    """The same with a network that costs nothing."""

    def put_into(self, trainer: Any) -> None:
        """Replace the prediction; it still depends on a weight, for the backward pass."""
        weight = trainer.parameters[0]

        def cheap(network: Any, noisy: torch.Tensor, *_: Any) -> torch.Tensor:
            return noisy + 0 * weight.sum()

        trainer.task.backbone.predict = cheap
        super().put_into(trainer)


@contextmanager
def gaps_of_next() -> Iterator[Gaps]:
    """The gaps of the trainer that fits inside the block; afterwards trainers fit as before."""
    fit = Trainer.fit
    gaps = StubGaps(time.process_time)
    gaps.watch()
    try:
        yield gaps
    finally:
        gaps.close()
        Trainer.fit = fit  # type: ignore[method-assign]
