"""The bare network beside our step: in the same process, on the same draws, with the same weights
and precision."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from diffdpo.engine.trainer import Trainer
from scripts.benchmark.gate import now


class Recorder:
    """A task that keeps the draws it made."""

    def __init__(self, task: Any, draws: list[Any]) -> None:
        self.task, self.draws = task, draws

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def draw(self, batch: Any) -> Any:
        """The task's own draw."""
        self.draws.append(self.task.draw(batch))
        return self.draws[-1]


class BareNetwork:
    """Times policy forward, its backward, and the reference's forward where a step needs one;
    nothing else."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.draws: list[Any] = []

    def watch(self) -> None:
        """Record the draws of the next trainer that starts to fit."""
        fit = Trainer.fit

        def watched(trainer: Trainer, *args: Any, **options: Any) -> int:
            self.trainer, trainer.task = trainer, Recorder(trainer.task, self.draws)
            return fit(trainer, *args, **options)

        Trainer.fit = watched  # type: ignore[method-assign, assignment]

    def measure(self) -> dict[str, float]:
        """Mean wall and CPU seconds a draw over those recorded since the last call."""
        draws = list(self.draws)
        self.draws.clear()
        if self.trainer is None or not draws:
            return {}
        self.forget_gradients()
        begin = now()
        for draw in draws:
            self.run(draw)
            self.forget_gradients()
        wall, cpu = (end - start for start, end in zip(begin, now(), strict=True))
        return {"bare_wall": wall / len(draws), "bare_cpu": cpu / len(draws)}

    def run(self, draw: Any) -> None:
        """Forward and backward of one draw; the reference first, as in training."""
        trainer = self.trainer
        if getattr(draw, "reference_N", None) is None:
            with torch.no_grad(), trainer.reference.network(trainer.model) as frozen:
                forward(trainer.task, frozen, draw)
        forward(trainer.task, trainer.model, draw).float().square().mean().backward()

    def forget_gradients(self) -> None:
        """Free the gradients, as the trainer does after a step."""
        for weight in self.trainer.parameters:
            weight.grad = None


def forward(task: Any, network: nn.Module, draw: Any) -> torch.Tensor:
    """The network's output on a draw, in training's precision: a UNet's prediction, or a language
    model's scores."""
    backbone = getattr(task, "backbone", None)
    if backbone is None:
        return task.score(network, draw)
    with task.autocast():
        return backbone.predict(network, draw.noisy_NCHW, draw.timestep_N, draw.condition)
