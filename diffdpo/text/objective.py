"""A weighted sum of losses over text: sums or means over tokens, pairs or single items, KTO's
reference point.

Shapes: ``B`` pairs, ``N`` items (winners first, or single); behind them the prompts of the winners,
where scored."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffdpo.losses import LOSSES
from diffdpo.objective import Engine, Metrics, Objective
from diffdpo.preference import implicit_reward, summary
from diffdpo.text.batch import TextBatch, TextDraw


@dataclass(frozen=True)
class Known:
    """What a step knows of its effective batch: which share of it one micro-batch is, KTO's z, and
    tokens per pair of the chosen completions and of the prompts before them."""

    share: float = 1.0
    kl: Tensor | float = 0.0
    chosen_tokens: Tensor | float = 1.0
    prompt_tokens: Tensor | float = 0.0


@dataclass(frozen=True)
class TextObjective:
    """Σ weight · loss. All terms judge pairs, or there is one term and it judges single items."""

    terms: tuple[Objective, ...]
    weights: tuple[float, ...]

    @property
    def reward_scale(self) -> float:
        """Beta."""
        return self.terms[0].reward_scale

    @property
    def paired(self) -> bool:
        """Whether pairs are judged, not single items."""
        return self.terms[0].row.paired

    @property
    def reference_free(self) -> bool:
        """Whether no term needs a reference."""
        return all(term.row.reference_free for term in self.terms)

    @property
    def needs_kl(self) -> bool:
        """Whether a term reads KTO's reference point."""
        return any(term.row.needs_kl for term in self.terms)

    @property
    def reads_nll(self) -> bool:
        """Whether a term reads the likelihood of the chosen side apart."""
        return any(term.row.reads_nll for term in self.terms)

    def prepare(self, engine: Engine, micro_batches: list[TextBatch]) -> Known:
        """KTO's z over mismatched pairs, clamped at 0 after the mean over all processes; and the
        token counts."""
        share = 1 / (len(micro_batches) * engine.task.world)
        if self.needs_kl:
            return Known(
                share, kl=engine.mean_reward(engine.task.mismatched(micro_batches)).clamp(min=0)
            )
        if not self.reads_nll and not any(term.row.mean_of_batch for term in self.terms):
            return Known(share)
        draws = [engine.task.draw(batch) for batch in micro_batches]
        counts = torch.zeros(3)
        for batch, draw in zip(micro_batches, draws, strict=True):
            chosen, prompts = draw.sizes[: batch.pairs], draw.sizes[2 * batch.pairs :]
            counts += torch.tensor([sum(chosen), sum(prompts), batch.pairs])
        chosen_tokens, prompt_tokens, pairs = engine.total(counts)
        # At least one token: a step of nothing but empty completions has a loss of zero, not of
        # zero by zero.
        return Known(
            share,
            chosen_tokens=chosen_tokens.clamp(min=1) / pairs,
            prompt_tokens=prompt_tokens / pairs,
        )

    def judge(
        self, policy_N: Tensor, reference_N: Tensor | float, draw: TextDraw, known: Known
    ) -> tuple[Tensor, Metrics]:
        """The loss of a micro-batch and TRL's metrics of it."""
        judge = self.judge_pairs if self.paired else self.judge_items
        loss, found = judge(policy_N, reference_N, draw, known)
        # A sum over the effective batch, in the form of a mean: the counts of all micro-batches add
        # up to 1.
        return loss, {**found, "num_tokens": loss.new_tensor([draw.tokens, known.share])}

    def judge_pairs(
        self, policy_N: Tensor, reference_N: Tensor | float, draw: TextDraw, known: Known
    ) -> tuple[Tensor, Metrics]:
        """Each term reads the rewards in its own unit."""
        items = draw.completions
        policy_N, prompt_B, size_N = policy_N[:items], policy_N[items:], draw.size_N[:items]
        frozen_N = reference_N[:items] if isinstance(reference_N, Tensor) else reference_N
        loss = policy_N.new_zeros(())
        for term, weight in zip(self.terms, self.weights, strict=True):
            reward_N = policy_N if term.row.reference_free else implicit_reward(policy_N, frozen_N)
            if term.row.mean_tokens:
                reward_N = reward_N / (known.chosen_tokens if term.row.mean_of_batch else size_N)
            chosen_B, rejected_B = reward_N.chunk(2)
            loss_B = term(
                chosen_B, rejected_B, draw.outcome_B, nll_B=self.nll(policy_N, prompt_B, known)
            )
            loss = loss + weight * loss_B.mean()
        with torch.no_grad():
            return loss, self.pair_metrics(policy_N, frozen_N, size_N)

    def nll(self, policy_N: Tensor, prompt_B: Tensor, known: Known) -> Tensor:
        """−log p of the chosen completions, with their prompts where these are scored, per token of
        the step: its mean is a language model's loss, as ORPO in TRL has it."""
        chosen_B = policy_N.chunk(2)[0]
        whole_B = chosen_B + prompt_B if len(prompt_B) else chosen_B
        return -whole_B / (known.chosen_tokens + known.prompt_tokens)

    def pair_metrics(self, policy_N: Tensor, frozen_N: Tensor | float, size_N: Tensor) -> Metrics:
        """Rewards and log-probabilities: sums over tokens as in TRL's DPO, means where no reference
        is used, as in its ORPO and SimPO."""
        unit_N = size_N if self.reference_free else torch.ones_like(size_N)
        chosen_B, rejected_B = (self.reward_scale * (policy_N - frozen_N) / unit_N).chunk(2)
        logp_chosen_B, logp_rejected_B = (policy_N / unit_N).chunk(2)
        said = {"logps/chosen": logp_chosen_B.mean(), "logps/rejected": logp_rejected_B.mean()}
        return {**summary(chosen_B, rejected_B), **said}

    def judge_items(
        self, policy_N: Tensor, reference_N: Tensor | float, draw: TextDraw, known: Known
    ) -> tuple[Tensor, Metrics]:
        """Single items; the metrics of a label count the items that have it."""
        term, desirable_N = self.terms[0], draw.desirable_N
        assert desirable_N is not None, "an unpaired loss got items without labels"
        reward_N = implicit_reward(policy_N, reference_N)
        loss_N = LOSSES[term.name].fn(
            reward_N, desirable_N, known.kl, beta=term.beta, **term.options
        )
        with torch.no_grad():
            found: Metrics = {}
            for name, has in (("chosen", desirable_N), ("rejected", ~desirable_N)):
                found[f"rewards/{name}"] = among(self.reward_scale * reward_N, has)
                found[f"logps/{name}"] = among(policy_N, has)
            if term.row.needs_kl:
                found["kl"] = torch.as_tensor(known.kl)
        return self.weights[0] * loss_N.mean(), found


def among(value_N: Tensor, has_N: Tensor) -> Tensor:
    """(sum, count) of the values that ``has_N`` marks."""
    return torch.stack([(value_N * has_N).sum(), has_N.sum().float()])
