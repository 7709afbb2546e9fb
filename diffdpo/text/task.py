"""Text preferences as a task of the engine: an item's score is the log-likelihood of its completion
tokens.

Shapes: ``N`` completions, chosen first, or single; ``P`` scored tokens; ``K`` columns of a token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from diffdpo.engine.transfer import on_device
from diffdpo.losses.means import Metrics, by_label
from diffdpo.objective.scores import Scores, StepContext
from diffdpo.objective.terms import Objective
from diffdpo.reference import unwrapped
from diffdpo.text.scoring.batch import Collation, TextBatch, TextDraw, make_draw
from diffdpo.text.scoring.layers import layers_of
from diffdpo.text.scoring.layout import Rule
from diffdpo.text.scoring.logprob import ENTROPY, IS_TOP, LOGP, MEAN_LOGIT
from diffdpo.text.scoring.router import ADDED, BALANCE
from diffdpo.text.scoring.weighting import on_policy_weights, tail_weights
from diffdpo.text.settings import TextSettings


class TextTask:
    """Scores completions; with ``score_prompts`` the prompts of the chosen ones as well.

    ``mean_logps``: the logged log-probabilities are means over tokens, as in TRL's reference-free
    trainers. ``ld_alpha``: the weight of the tokens beyond the shorter completion of a pair, in the
    scores of policy and reference. ``weighs``: scores come with WPO's weights.
    """

    def __init__(
        self,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager],
        score_prompts: bool = False,
        mean_logps: bool = False,
        rank: int = 0,
        world: int = 1,
        ld_alpha: float | None = None,
        weighs: bool = False,
        rule: Rule | None = None,
    ) -> None:
        """``rule``: how the policy reads items, for the data workers to lay them out."""
        self.device, self.autocast = device, autocast
        self.score_prompts, self.mean_logps = score_prompts, mean_logps
        self.rank, self.world, self.rule = rank, world, rule
        self.ld_alpha, self.weighs = ld_alpha, weighs
        self.collate = Collation(score_prompts, rule)

    def draw(self, batch: TextBatch) -> TextDraw:
        """The inputs and targets of a batch, on the device. Nothing is random: text has no
        augmentation and the models no dropout."""
        return make_draw(batch, self.device, self.score_prompts, self.rule)

    def score(self, model: nn.Module, draw: TextDraw) -> Scores:
        """Σ_t log p(y_t | x, y_<t) over the scored tokens of each completion, float32: ``(N,)``
        (Rafailov et al. 2023, eq. 7). With gradient, metrics of the tokens as well."""
        with self.autocast():
            column_PK = model(draw.layout(unwrapped(model).rule), self.weighs, draw.pictures)
        # Contiguous, or the columns beside it would decide how the sums are rounded: the reference
        # has one column and the policy five, and their sums must agree to the last bit.
        logp_P = column_PK[:, LOGP].contiguous()
        sums = sums_of(logp_P, draw.sizes)
        score_N, prompt_B = sums[: draw.completions], sums[draw.completions :]
        likelihood_N = None
        if self.ld_alpha is not None:
            likelihood_N = score_N
            weight_P = tail_weights(draw.sizes, draw.completions, self.ld_alpha)
            score_N = sums_of(logp_P * on_device(weight_P, logp_P.device), draw.sizes)[
                : draw.completions
            ]
        metrics = token_metrics(column_PK.detach(), draw) if torch.is_grad_enabled() else {}
        added = None
        if column_PK.shape[1] > BALANCE:
            added, metrics["aux_loss"] = column_PK[0, ADDED], column_PK[0, BALANCE].detach()
        weight_N = None
        if self.weighs:
            weight_N = on_policy_weights(column_PK, draw.sizes, draw.completions)
        return Scores(
            score_N,
            prompt_B if draw.score_prompts else None,
            metrics,
            added,
            likelihood_N=likelihood_N,
            weight_N=weight_N,
        )

    def metrics(
        self, policy: Scores, frozen_N: Tensor | float, draw: TextDraw, context: StepContext
    ) -> Metrics:
        """Metrics beside loss and rewards: log-probabilities of either side, the number of tokens,
        and the token metrics of the scoring pass."""
        logp_N = policy.score_N.detach() / (draw.size_N if self.mean_logps else 1.0)
        if draw.desirable_N is None:
            chosen_B, rejected_B = logp_N.chunk(2)
            logps = {"logps/chosen": chosen_B.mean(), "logps/rejected": rejected_B.mean()}
        else:
            logps = by_label("logps", logp_N, draw.desirable_N)
        # A sum over the effective batch, as a mean: the shares of all micro-batches add up to 1.
        # Filled on the device: to copy them there, the host would have to wait.
        count = torch.stack([logp_N.new_full((), one) for one in (draw.tokens, context.share)])
        return {**logps, "num_tokens": count, **policy.metrics}

    def token_counts(self, batch: TextBatch) -> tuple[int, int, int, int]:
        """The number of scored tokens of chosen completions, of rejected ones and of prompts, and
        the number of pairs."""
        # From the lists, because the loss of the first micro-batch needs the counts of the last.
        # The first token of a row has nothing before it to predict it from.
        sizes = [
            max(0, len(completion) - (0 if len(prompt) else 1))
            for prompt, completion in zip(batch.prompts, batch.completions, strict=True)
        ]
        prompts = [max(0, len(prompt) - 1) for prompt in batch.prompts[: batch.pairs]]
        scored_prompts = sum(prompts) if self.score_prompts else 0
        return sum(sizes[: batch.pairs]), sum(sizes[batch.pairs :]), scored_prompts, batch.pairs

    def layers(self, model: nn.Module) -> list[nn.Module]:
        """The layers of the language model."""
        return layers_of(model)

    def reference_point_draws(self, batches: Sequence[TextBatch]) -> Iterator[TextDraw]:
        """This process's prompts of the step, each with the completion of the item before it in the
        effective batch.

        Ethayarajh et al. 2024, section 4.1 estimate KTO's z on such mismatched pairs.
        """
        # Completions are put in the order of the stream, micro-batch by micro-batch over all
        # processes, so that z is the same however the effective batch is cut.
        own = [batch.completions for batch in batches]
        everyone = gather_object(own) if self.world > 1 else own  # process after process
        stream: list[Sequence[int]] = []
        starts: list[int] = []
        for index in range(len(batches)):
            for rank in range(self.world):
                starts += [len(stream)] if rank == self.rank else []
                stream += everyone[rank * len(batches) + index]
        for start, batch in zip(starts, batches, strict=True):
            # The first item of all meets the completion of the last: index −1.
            before = [stream[start + item - 1] for item in range(len(batch.completions))]
            yield self.draw(batch.with_completions(before))


def make_task(
    settings: TextSettings,
    objective: Objective,
    accelerator: Accelerator,
    rule: Rule,
    alone: bool = False,
) -> TextTask:
    """The task for an objective; it scores prompts where ORPO's likelihood term reads them.

    ``rule`` is how the policy reads items. ``alone``: every process sees all batches, as in
    held-out measuring, and gathers nothing.
    """
    return TextTask(
        accelerator.device,
        accelerator.autocast,
        score_prompts=settings.orpo_nll_on_prompt and objective.reads_nll,
        mean_logps=objective.shows_means,
        ld_alpha=settings.ld_alpha,
        weighs=settings.use_weighting,
        rank=0 if alone else accelerator.process_index,
        world=1 if alone else accelerator.num_processes,
        rule=rule,
    )


def sums_of(value_P: Tensor, sizes: list[int]) -> Tensor:
    """The sum over the tokens of every completion and every scored prompt."""
    return torch.stack([tokens.sum() for tokens in value_P.split(sizes)])


def token_metrics(column_PK: Tensor, draw: TextDraw) -> Metrics:
    """TRL's token metrics as (sum, count) over the tokens of completions: the entropy of all, the
    mean logit of either side, and the share of chosen tokens that no other word exceeds."""
    count = draw.completions
    sum_NK = torch.stack([tokens.sum(dim=0) for tokens in column_PK.split(draw.sizes)[:count]])
    size_N1 = draw.scored_M[:count].to(sum_NK.dtype)[:, None]
    table = torch.cat([sum_NK, size_N1], dim=1)
    chosen_N = draw.desirable_N
    if chosen_N is None:
        chosen_N = torch.arange(count, device=table.device) < count // 2
    # Masked products, not indexing: the number of items per label stays on the device.
    chosen, rejected = ((table * side_N[:, None]).sum(dim=0) for side_N in (chosen_N, ~chosen_N))
    return {
        "entropy": of_tokens(chosen + rejected, ENTROPY),
        "logits/chosen": of_tokens(chosen, MEAN_LOGIT),
        "logits/rejected": of_tokens(rejected, MEAN_LOGIT),
        "mean_token_accuracy": of_tokens(chosen, IS_TOP),
    }


def of_tokens(sums: Tensor, column: int) -> Tensor:
    """A column with the number of tokens, which comes last. Not by a list of indices, which would
    be copied to the device."""
    return torch.stack([sums[column], sums[-1]])
