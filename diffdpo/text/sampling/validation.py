"""Measures loss and reward accuracy on other rows during training, and writes what policy and
reference answer to the same prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from diffdpo.engine.console import say
from diffdpo.engine.files import write_atomically
from diffdpo.engine.sharding import is_sharded
from diffdpo.engine.step_context import Scorers, step_context
from diffdpo.engine.transfer import on_device
from diffdpo.losses.means import Metrics, fraction, means_of
from diffdpo.objective.scores import StepContext
from diffdpo.objective.terms import Objective
from diffdpo.preference import implicit_reward
from diffdpo.reference import Reference, StoredScores
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.sampling.generate import ends_of
from diffdpo.text.scoring.batch import TextBatch
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask, make_task
from diffdpo.text.tokens.row_reader import TextItem
from diffdpo.text.tokens.token_table import token_bytes


class Validation:
    """Measures on other rows, by name of their set, ``trained_on`` of which are among those of
    training; writes ``samples/step-N.txt``.

    Every process measures all rows, so that none waits for another; the first one writes.
    """

    def __init__(
        self,
        settings: TextSettings,
        scorer: TokenScorer,
        reference: Reference,
        objective: Objective,
        held_out: Mapping[str, TextRows],
        accelerator: Accelerator,
        every: int,
        total: int,
        trained_on: Mapping[str, int | None],
    ) -> None:
        self.settings, self.scorer, self.reference = settings, scorer, reference
        self.objective, self.held_out, self.accelerator = objective, held_out, accelerator
        self.task = make_task(settings, objective, accelerator, scorer.rule, alone=True)
        self.every, self.total, self.trained_on = every, total, trained_on
        self.tokenizer = next(iter(held_out.values())).tokenizer
        # Where weights are in shares, no process can run the network alone.
        self.answering = accelerator.is_main_process or is_sharded(accelerator)
        self.before = self.reference_answers()

    def due(self, done: int) -> bool:
        """Every so many steps, and at the end."""
        return done % self.every == 0 or done == self.total

    def final(self, done: int) -> None:
        """Nothing: the last step was measured."""

    def measure(self, done: int) -> dict[str, float]:
        """Measure, write the answers, and print the main figures."""
        metrics = self.figures()
        answers = self.answers(self.scorer) if self.answering else []
        if self.accelerator.is_main_process:
            self.write_answers(done, answers)
        say(*(self.line(done, name, metrics) for name in self.held_out))
        return metrics

    def line(self, done: int, name: str, metrics: Mapping[str, float]) -> str:
        """The main figures on one set."""
        begin = begin_of(name)
        figures = [
            f"{word} {metrics[begin + figure]:.4f}"
            for word, figure in SHOWN.items()
            if begin + figure in metrics
        ]
        # "held out" is said where it is so; None: nobody has looked.
        known = self.trained_on[name]
        title = "held out" if known == 0 else "measured"
        note = f", {known:,} of them in the training set" if known else ""
        where = f"{len(self.held_out[name]):,} rows" + (f" of {name}" if name else "")
        return f"{title:<12} step {done}: {', '.join(figures)} on {where}{note}"

    @torch.no_grad()
    def figures(self) -> dict[str, float]:
        """Means over all held-out rows, under TRL's names, and over those of every set that has a
        name, with the name in them."""
        each = {name: self.sums(rows) for name, rows in self.held_out.items()}
        found = figures_of("", added(each.values()))
        for name in filter(None, each):
            found |= figures_of(name, each[name])
        return found

    def sums(self, rows: TextRows) -> dict[str, Tensor]:
        """Sums with their counts over the rows of a set. They count as one step: token means and
        KTO's z are taken over all of them."""
        batches = Batches(self.task, rows, self.settings.eval_batch_size)
        # Every process has all of the rows already: there is nothing to add up.
        scorers = Scorers(self.task, self.scorer, self.reference, total=lambda value: value)
        context = step_context(self.objective, scorers, batches, learning=False)
        measured = []
        for index, batch in enumerate(batches):
            figures = self.measure_batch(batch, context.at(index))
            # A plain mean counts for the pairs it was taken over; a (sum, count) weighs itself.
            measured.append(
                {
                    name: (batch.pairs if value.dim() == 0 else 1) * fraction(value)
                    for name, value in figures.items()
                }
            )
        return added(measured)

    def measure_batch(self, batch: TextBatch, context: StepContext) -> Metrics:
        """Loss and metrics of one batch."""
        draw = self.task.draw(batch)
        frozen_N = self.reference.score(self.task.score, self.scorer, draw)
        policy = self.task.score(self.scorer, draw)
        reward_N = implicit_reward(policy.score_N, frozen_N)
        return {
            "loss": self.objective.loss(policy, reward_N, draw, context).mean(),
            **self.objective.metrics(reward_N, draw, context),
            **self.task.metrics(policy, frozen_N, draw, context),
        }

    def answers(self, scorer: nn.Module) -> list[str]:
        """A network's answers to the prompts."""
        return [self.answer(scorer, item) for _, item in self.asked()]

    def write_answers(self, done: int, answers: list[str]) -> None:
        """Write the prompts with the answers of reference and policy below each."""
        texts = []
        for index, (rows, item) in enumerate(self.asked()):
            lines = {"prompt": rows.shown(item.prompt)}
            if self.before:
                lines["reference"] = self.before[index]
            lines[f"policy, step {done}"] = answers[index]
            texts.append("\n".join(f"[{name}]\n{text}" for name, text in lines.items()))
        if texts:
            path = Path(self.settings.output_dir) / "samples" / f"step-{done}.txt"
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, "\n\n\n".join(texts) + "\n")

    def asked(self) -> list[tuple[TextRows, TextItem]]:
        """The items whose prompts are answered, with the rows of their set: the first ones of
        each; an empty prompt has no answer."""
        return [
            (rows, item)
            for rows in self.held_out.values()
            for item in rows.items[: self.settings.eval_generations]
            if item.prompt
        ]

    def reference_answers(self) -> list[str]:
        """The reference's answers; none where the loss has no reference or its network is freed."""
        # Made before the first step, when the policy's network still answers for a reference of
        # which scores alone are stored. The network of another model is freed by now.
        freed = isinstance(self.reference, StoredScores) and not self.reference.starts_equal
        if self.objective.reference_free or freed or not self.answering:
            return []
        with self.reference.network(self.scorer) as frozen:
            return self.answers(frozen)

    @torch.no_grad()
    def answer(self, scorer: Any, item: TextItem) -> str:
        """The most likely continuation of a prompt, token by token."""
        network: Any = scorer.network
        training = network.training
        network.eval()  # in training mode gradient checkpointing would switch the cache off
        try:
            ids = torch.tensor([list(item.prompt)], device=self.accelerator.device)
            pictures = on_device(item.pictures, ids.device)
            length, pad = self.settings.max_new_tokens, self.tokenizer.eos_token_id
            ends = ends_of(scorer.network, self.tokenizer)
            with self.accelerator.autocast():
                token_NT = scorer.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=length,
                    do_sample=False,
                    pad_token_id=pad,
                    eos_token_id=list(ends) or None,
                    **(pictures.inputs([0], ids) if pictures else {}),
                )
        finally:
            network.train(training)
        return str(self.tokenizer.decode(token_NT[0, len(item.prompt) :]))


class Batches(Sequence[TextBatch]):
    """Rows in batches, each made when it is asked for: pictures of all would fill the memory."""

    def __init__(self, task: TextTask, rows: TextRows, size: int) -> None:
        self.task, self.rows, self.size = task, rows, size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    @overload
    def __getitem__(self, index: int) -> TextBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[TextBatch]: ...
    def __getitem__(self, index: int | slice) -> TextBatch | list[TextBatch]:
        numbers = range(len(self))[index]
        if isinstance(numbers, int):
            return self.task.collate(
                self.rows.items[numbers * self.size : (numbers + 1) * self.size]
            )
        return [self[number] for number in numbers]


def added(parts: Iterable[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sums of several parts together, by name."""
    totals: dict[str, Tensor] = {}
    for part in parts:
        for name, value in part.items():
            totals[name] = totals.get(name, 0) + value
    return totals


def figures_of(name: str, sums: Mapping[str, Tensor]) -> dict[str, float]:
    """Means from sums and counts, by their names in eval.jsonl."""
    means = means_of(list(sums), [total.tolist() for total in sums.values()])
    return {f"{begin_of(name)}{figure}": value for figure, value in means.items()}


def begin_of(name: str) -> str:
    """How the figures of the set ``name`` begin; '' is the name of all sets together."""
    return f"eval_{name}/" if name else "eval_"


def count_trained_on(rows: TextRows, training: TextRows) -> int:
    """How many rows have a completion that training knows after the same prompt."""
    # Only what is asked about is kept in memory: the training set may be large.
    texts = [set(texts_of(item)) for item in rows.viewed()]
    asked = set().union(*texts)
    known = {text for item in training.viewed() for text in texts_of(item) if text in asked}
    return sum(not known.isdisjoint(both) for both in texts)


def texts_of(item: TextItem) -> list[bytes]:
    """The completions of an item, each with its prompt."""
    return [token_bytes(item.prompt, ids) + item.look for ids in item.completions]


SHOWN = {"loss": "loss", "accuracy": "rewards/accuracies", "margin": "rewards/margins"}
