"""Stops the clock of any training program at chosen moments, writes the weights that it trains, and
lets it go on.

PyTorch calls the same hook after every step of every optimizer, and the network is found by the
weights that the optimizer holds, so the program needs no change. Its clock runs from its first line
on, and stands still while weights are written.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from scripts.benchmark.gate import Channel, Stop, now


@dataclass(frozen=True)
class Moments:
    """When weights are written, in seconds of the program's own clock, and where; the last moment
    ends it. ``steps`` ends it after so many optimizer steps, each of them written."""

    seconds: list[float]
    folder: str
    steps: int | None = None
    watch: ClassVar = "snapshots"  # a row of scripts.benchmark.worker.WATCHES
    has_asides: ClassVar = False

    def passed(self, seconds: float) -> int:
        """How many moments lie behind."""
        return sum(moment <= seconds for moment in self.seconds)


class Snapshots:
    """Writes weights while its block lasts. A report of each names its step, its wall and CPU
    seconds, the seconds to the end of the first step and the folder; a last one, ``done``, comes
    before the program is stopped."""

    def __init__(self, moments: Moments, channel: Channel) -> None:
        self.moments, self.channel = moments, channel
        self.steps, self.written, self.setup, self.paused = 0, 0, 0.0, (0.0, 0.0)

    def __enter__(self) -> Snapshots:
        self.handle = register_optimizer_step_post_hook(self.after_step)
        self.begin = now()
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()

    def after_step(self, optimizer: Optimizer, *_: Any) -> None:
        """The hook. Raises Stop after the last moment."""
        here = now()
        self.steps += 1
        wall, cpu = (
            end - begin - pause
            for begin, end, pause in zip(self.begin, here, self.paused, strict=True)
        )
        if self.steps == 1:
            self.setup = wall
        passed = self.moments.passed(wall)
        by_steps = self.moments.steps is not None
        if passed > self.written or by_steps:
            # Two moments in one step are one snapshot.
            self.written = passed
            folder = Path(self.moments.folder) / f"step-{self.steps}"
            write_weights(trained_by(optimizer), folder)
            facts = {"step": self.steps, "seconds": wall, "cpu": cpu, "setup": self.setup}
            self.channel.tell("snapshot", folder=str(folder), **facts)
        if self.steps == self.moments.steps or passed == len(self.moments.seconds):
            self.channel.tell("done", steps=self.steps, seconds=wall, cpu=cpu)
            raise Stop
        self.paused = tuple(  # type: ignore[assignment]
            pause + end - begin for pause, begin, end in zip(self.paused, here, now(), strict=True)
        )


def trained_by(optimizer: Optimizer) -> nn.Module:
    """The network of diffusers whose weights the optimizer changes.

    Raises RuntimeError where there is none, or where it is not plain which one.
    """
    from diffusers import ModelMixin

    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    found = [
        thing
        for thing in gc.get_objects()
        # By its type: to ask a lazy module or a proxy for its class would load it.
        if issubclass(type(thing), ModelMixin)
        and held <= {id(weight) for weight in thing.parameters()}
    ]
    if len(found) != 1:
        raise RuntimeError(f"{len(found)} networks hold the weights of the optimizer, not one")
    return found[0]


def write_weights(network: nn.Module, folder: Path) -> None:
    """Weights as ``--policy`` reads them: a LoRA file, or a folder of the network's part."""
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline, StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    anything: Any = network
    is_transformer = isinstance(network, SD3Transformer2DModel)
    part = "transformer" if is_transformer else "unet"
    if not getattr(network, "peft_config", None):
        anything.save_pretrained(folder / part)
        return
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(network))
    pipeline: Any = StableDiffusion3Pipeline if is_transformer else StableDiffusionPipeline
    pipeline.save_lora_weights(str(folder), **{f"{part}_lora_layers": layers})
