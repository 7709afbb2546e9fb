"""Text preferences as a task of the engine: an item's score is the log-likelihood of its completion
tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from diffdpo.objective import Metrics
from diffdpo.text.batch import TextBatch, TextDraw, collate, make_draw
from diffdpo.text.logprob import ENTROPY, IS_TOP, LOGP, MEAN_LOGIT
from diffdpo.text.rows import TextItem


class TextTask:
    """Scores completions; with ``score_prompts`` the prompts of the winners as well, as further
    items."""

    def __init__(
        self,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        score_prompts: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.device, self.autocast, self.score_prompts = device, autocast, score_prompts
        self.rank, self.world = rank, world
        self.seen: Metrics = {}

    def collate(self, items: list[TextItem]) -> TextBatch:
        """A batch, still as lists."""
        return collate(items)

    def draw(self, batch: TextBatch) -> TextDraw:
        """Tokens on the device; text has nothing random."""
        return make_draw(batch, self.device, self.score_prompts)

    def score(self, model: nn.Module, draw: TextDraw) -> Tensor:
        """Σ_t log p(y_t | x, y_<t) over the scored tokens of each item, float32: ``(N,)`` (Rafailov
        et al. 2023, eq. 7)."""
        with self.autocast():
            found_PK = model(draw.token_S, draw.lengths, draw.target_P, draw.score_prompts)
        if torch.is_grad_enabled():
            self.seen = of_tokens(found_PK.detach(), draw)
        logp_P = found_PK[
            :, LOGP
        ].contiguous()  # or the columns beside it would decide how the sums are rounded
        return torch.stack([part.sum() for part in logp_P.split(draw.sizes)])

    def metrics(self, policy_N: Tensor, reference_N: Tensor | float) -> dict[str, Tensor]:
        """What was seen of single tokens when the policy was scored."""
        return self.seen

    def mismatched(self, micro_batches: list[TextBatch]) -> Iterator[TextDraw]:
        """Every prompt of the step with the completion of the item before it, over micro-batches
        and processes.

        Ethayarajh et al. 2024, section 4.1 estimate KTO's z on such pairs. Items stand in the order
        of the stream, so z is the same however the effective batch is cut."""
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


def of_tokens(found_P4: Tensor, draw: TextDraw) -> Metrics:
    """(sum, count) over the tokens of completions, as in TRL: the entropy of all, the mean over the
    vocabulary of the logits of either kind, and for how many of the chosen no word is likelier."""
    count = draw.completions
    sum_N4 = torch.stack([part.sum(dim=0) for part in found_P4.split(draw.sizes)[:count]])
    size_N1 = sum_N4.new_tensor(draw.sizes[:count])[:, None]
    table = torch.cat([sum_N4, size_N1], dim=1)
    chosen_N = (
        torch.arange(count, device=table.device) < count // 2
        if draw.desirable_N is None
        else draw.desirable_N
    )
    chosen, rejected = ((table * who_N[:, None]).sum(dim=0) for who_N in (chosen_N, ~chosen_N))
    return {
        "entropy": (chosen + rejected)[[ENTROPY, -1]],
        "logits/chosen": chosen[[MEAN_LOGIT, -1]],
        "logits/rejected": rejected[[MEAN_LOGIT, -1]],
        "mean_token_accuracy": chosen[[IS_TOP, -1]],
    }
