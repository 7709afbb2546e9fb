"""Text preferences as a task of the engine: an item's score is the log-likelihood of its completion tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from diffdpo.text.batch import TextBatch, TextDraw, collate, make_draw
from diffdpo.text.rows import TextItem


class TextTask:
    """Scores completions; with ``score_prompts`` the prompts of the winners as well, as further items."""

    def __init__(
        self,
        pad: int,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        score_prompts: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.pad, self.device, self.autocast, self.score_prompts = pad, device, autocast, score_prompts
        self.rank, self.world = rank, world

    def collate(self, items: list[TextItem]) -> TextBatch:
        """A batch, still as lists."""
        return collate(items)

    def draw(self, batch: TextBatch) -> TextDraw:
        """Padded tokens on the device; text has nothing random."""
        return make_draw(batch, self.pad, self.device, self.score_prompts)

    def score(self, model: nn.Module, draw: TextDraw) -> Tensor:
        """Σ_t log p(y_t | x, y_<t) over the scored tokens of each item, float32: ``(N,)`` (Rafailov et al. 2023,
        eq. 7)."""
        with self.autocast():
            logp_P = model(draw.input_ids_NT, draw.attention_NT, draw.position_P, draw.target_P)
        return torch.stack([part.sum() for part in logp_P.split(draw.sizes)])

    def metrics(self, policy_N: Tensor, reference_N: Tensor | float) -> dict[str, Tensor]:
        """Nothing beside what the objective reports."""
        return {}

    def mismatched(self, micro_batches: list[TextBatch]) -> Iterator[TextDraw]:
        """Every prompt of the step with the completion of the item before it, over micro-batches and processes.

        Ethayarajh et al. 2024, section 4.1 estimate KTO's z on such pairs. Items stand in the order of the stream,
        so z is the same however the effective batch is cut.
        """
        own = [batch.completions for batch in micro_batches]
        everyone = gather_object(own) if self.world > 1 else own  # process after process
        flat: list[Sequence[int]] = []
        starts: list[int] = []
        for part in range(len(micro_batches)):
            for rank in range(self.world):
                starts += [len(flat)] if rank == self.rank else []
                flat += everyone[rank * len(micro_batches) + part]
        for start, batch in zip(starts, micro_batches, strict=True):
            before = [flat[start + place - 1] for place in range(len(batch.completions))]
            yield self.draw(batch.with_completions(before))
