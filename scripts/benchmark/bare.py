"""The network alone beside our step: in the same process, on the same draws, with the same weights
and precision, and without this package's scoring, losses and loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffdpo.reference import unwrapped
from diffdpo.text.scoring.batch import TextDraw
from scripts.benchmark.before_fit import before_fit
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
        before_fit(self.put_into)

    def put_into(self, trainer: Any) -> None:
        """Record the draws of a trainer."""
        self.trainer, trainer.task = trainer, Recorder(trainer.task, self.draws)

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
        passes = text_passes if isinstance(draw, TextDraw) else image_passes
        if getattr(draw, "reference_N", None) is None:
            with torch.no_grad(), trainer.reference.network(trainer.model) as frozen:
                for _ in passes(trainer.task, frozen, draw):
                    pass
        for loss in passes(trainer.task, trainer.model, draw):
            loss.backward()

    def forget_gradients(self) -> None:
        """Free the gradients, as the trainer does after a step."""
        for weight in self.trainer.parameters:
            weight.grad = None


def image_passes(task: Any, network: nn.Module, draw: Any) -> Iterator[Tensor]:
    """The UNet's prediction for all rows at once, as a number with a gradient."""
    with task.autocast():
        prediction = task.backbone.predict(network, draw.noisy, draw.timestep_N, draw.condition)
    yield prediction.float().square().mean()


def text_passes(task: Any, scorer: Any, draw: TextDraw) -> Iterator[Tensor]:
    """The language model's own logits under cross-entropy, for every completion with its prompt.

    A row is a pass of its own, without padding: the logits of all rows at once would be the peak
    of the program's memory.
    """
    network = unwrapped(scorer).network
    for token_S, start in completions(draw):
        with task.autocast():
            logits_SV = network(input_ids=token_S[None], use_cache=False).logits[0]
        yield functional.cross_entropy(logits_SV[start - 1 : -1].float(), token_S[start:])


def completions(draw: TextDraw) -> Iterator[tuple[Tensor, int]]:
    """Each prompt with each of its completions, and the index of the first token to predict."""
    items = draw.token_S.split([sum(sizes) for sizes in draw.lengths])
    for tokens, sizes in zip(items, draw.lengths, strict=True):
        prompt_S, *completions_S = tokens.split(list(sizes))
        for completion_S in completions_S:
            yield torch.cat([prompt_S, completion_S]), max(1, len(prompt_S))
