"""Measures on pairs that are kept out of training: loss, implicit accuracy, the winner's error.

The draws are those of the first visits of training, so that every measurement meets the same
timesteps and noises, and two of them differ by the weights alone. Shapes: ``P`` pairs, ``K`` draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffdpo.cache.keys import digest
from diffdpo.data.holdout import groups, held_out
from diffdpo.engine.batches import Rows, Subset
from diffdpo.engine.console import say
from diffdpo.engine.files import atomic_file
from diffdpo.engine.trainer import Trainer
from diffdpo.engine.watch.evals import Measures, Several
from diffdpo.errors import UserError
from diffdpo.image.process.noise import Process
from diffdpo.image.reading.pairs import CHECK_UP_TO, ImagePairs
from diffdpo.image.settings import ImageSettings
from diffdpo.metrics.difficulty import by_difficulty
from diffdpo.metrics.implicit import Margins, by_timestep, implicit_margins, overall, winners_error
from diffdpo.metrics.intervals import clustered_mean
from diffdpo.objective.scores import Scores, StepContext
from diffdpo.preference import accuracy
from diffdpo.reference import unwrapped

DRAWS = 4  # of each pair
FOLDER = "held-out"


@dataclass(frozen=True)
class Division:
    """The pairs of a run: the rows to train on, and the numbers of those that are held out."""

    pairs: ImagePairs
    rows: Rows
    out_P: np.ndarray
    prompts: list[str]  # that are trained on; none where nothing is held out
    unseen: list[str]  # of the pairs held out

    def each_prompt(self) -> Iterable[str]:
        """The prompt of every pair that is trained on."""
        return self.prompts or self.pairs.each_prompt()

    def to_sample(self) -> Iterable[str]:
        """The prompts that pictures are sampled of during training."""
        return self.unseen or self.each_prompt()

    def line(self, settings: ImageSettings) -> dict[str, str]:
        """What is held out, for the lines at the start."""
        if not self.unseen:
            return {}
        kept = f"; the best by {settings.metric_for_best_model} is kept"
        return {
            "held out": f"{len(self.out_P):,} pairs of {len(set(self.unseen)):,} prompts, measured"
            f" every {settings.eval_steps} steps{kept if settings.keep_best else ''}"
        }


def divided(rows: Rows, pairs: ImagePairs, settings: ImageSettings) -> Division:
    """What is trained on of ``rows``, which are those of ``pairs``, and what is held out.

    Pairs of one prompt stay together, and in a set that is small enough to be looked through those
    that have a picture in common. Ties among those held out are left out.

    Raises UserError where the pairs cannot be divided so.
    """
    if settings.holdout is None:
        return Division(pairs, rows, np.empty(0, dtype=np.int64), [], [])
    prompts = pairs.prompts()
    # A prompt that is missing links nothing.
    names = [[f"prompt {text}"] if text else [] for text in prompts]
    if len(prompts) <= CHECK_UP_TO:
        for own, row in zip(names, pairs.rows.tolist(), strict=True):
            own += [digest(content) for content in pairs.stored.contents(row)]
    chosen_P = held_out(groups(names), settings.holdout, settings.seed)
    # A tie has no winner whose place could be right, and to train on it would tell of its group.
    tie_P = pairs.first_wins[pairs.rows] == 0.5
    kept_P, out_P = np.flatnonzero(~chosen_P), np.flatnonzero(chosen_P & ~tie_P)
    if not len(out_P):
        raise UserError(f"--holdout {settings.holdout:g}: all pairs held out are ties; take more")
    trained, unseen = ([prompts[number] for number in part] for part in (kept_P, out_P))
    return Division(pairs, Subset(rows, kept_P), out_P, trained, unseen)


def measures(
    pictures: Measures,
    settings: ImageSettings,
    process: Process,
    rows: Rows,
    division: Division,
    trainer: Trainer,
) -> Measures:
    """What is measured during training: ``pictures``, after the pairs held out where there are
    some."""
    if not division.unseen:
        return pictures
    return Several([HeldOut(settings, process, rows, division, trainer), pictures])


class HeldOut:
    """Measures on the held-out rows of a run, every ``--eval_steps`` steps and at the end.

    The processes share the rows. ``FOLDER`` in the run's folder holds what each pair had at every
    measurement, by which later ones are compared with it.
    """

    def __init__(
        self,
        settings: ImageSettings,
        process: Process,
        rows: Rows,
        division: Division,
        trainer: Trainer,
    ) -> None:
        """``rows`` are all pairs, of which ``division`` says which are held out."""
        self.settings, self.process = settings, process
        self.rows, self.numbers, self.prompts = rows, division.out_P, division.unseen
        self.trainer, self.accelerator = trainer, trainer.accelerator
        # With stored scores there are no others.
        self.draws = min(DRAWS, settings.reference_draws or DRAWS)
        self.folder = Path(settings.output_dir) / FOLDER

    def due(self, done: int) -> bool:
        """Every ``--eval_steps`` steps, and at the end."""
        return done % self.settings.eval_steps == 0 or done == self.trainer.plan.total_steps

    def measure(self, done: int) -> dict[str, Any]:
        """Measure, and print the main figures."""
        margins = self.margins()
        figures = self.figures(margins)
        before = self.trainer.monitor.evals.best()
        if before is not None:
            figures |= self.beside(before, margins)
        if self.accelerator.is_main_process:
            self.folder.mkdir(exist_ok=True)
            with atomic_file(self.file(done)) as draft:
                save_file(columns(margins), draft)
        self.accelerator.wait_for_everyone()  # all find the file from now on
        say(f"held out     step {done}: {summary(figures)}")
        return figures

    def final(self, done: int) -> None:
        """Nothing: the last step was measured."""

    def margins(self) -> Margins:
        """Margins, losses and scores of all held-out pairs, the same on all processes."""
        accelerator, trainer = self.accelerator, self.trainer
        world, rank, count = accelerator.num_processes, accelerator.process_index, len(self.numbers)
        # Each as many as every other: where weights are in shares all must run together.
        own = [(rank + world * i) % count for i in range(-(-count // world))]
        objective, batch = trainer.objective, self.settings.train_batch_size
        rows = Subset(self.rows, self.numbers[own])
        context = self.context(rows) if objective.needs_kl else StepContext()

        def loss(policy: Scores, reward_N: Tensor, draw: Any) -> Tensor:
            return objective.loss(policy, reward_N, draw, context)

        found = implicit_margins(
            rows, trainer.task, unwrapped(trainer.model), trainer.reference, self.draws, batch,
            quiet=True, loss=loss,
        )  # fmt: skip
        timestep_PK = self.together(found.timestep_PK, count)
        beside = [
            None if part is None else self.together(part, count)
            for part in (found.chosen_PK2, found.loss_PK, found.rejected_PK2)
        ]
        return Margins(self.together(found.margin_PK, count), timestep_PK, self.prompts, *beside)

    def context(self, rows: Rows) -> StepContext:
        """KTO's reference point, from all held-out pairs at their first draw. A pair that fills a
        process up is counted once."""
        trainer, size = self.trainer, self.settings.train_batch_size
        found = implicit_margins(
            rows, trainer.task, unwrapped(trainer.model), trainer.reference, 1, size, quiet=True
        )
        assert found.chosen_PK2 is not None, "of all pairs"
        assert found.rejected_PK2 is not None, "of all pairs"
        own = torch.cat([found.chosen_PK2, found.rejected_PK2], dim=1)
        policy, reference = self.together(own, len(self.numbers)).unbind(dim=-1)
        return StepContext(reference_point=max(0.0, float((policy - reference).mean())))

    def together(self, part: Tensor, count: int) -> Tensor:
        """The rows of all processes in their order, without those that fill the last up."""
        if self.accelerator.num_processes == 1:
            return part
        every = self.accelerator.gather(part.to(self.accelerator.device)[None]).cpu()
        return every.transpose(0, 1).flatten(0, 1)[:count]

    def figures(self, margins: Margins) -> dict[str, Any]:
        """The figures of one measurement, with intervals clustered by prompt."""
        seed = self.settings.seed
        share = overall(margins, seed)
        assert margins.loss_PK is not None, "asked for above"
        figures: dict[str, Any] = {
            "eval_loss": float(margins.loss_PK.double().mean()),
            "eval_rewards/accuracies": share.value,
            "eval_accuracy_interval": bounds(share.as_dict()),
            "eval_rewards/margins": float(
                margins.margin_PK.double().mean() * self.trainer.objective.reward_scale
            ),
        }
        winner = winners_error(margins, seed)
        figures["eval_error/policy_chosen"] = winner["policy"]
        if not self.trainer.objective.reference_free:
            rise = winner["difference"]
            figures["eval_error/reference_chosen"] = winner["reference"]
            figures["eval_error/rise"] = rise.value
            figures["eval_error/rise_interval"] = bounds(rise.as_dict())
            figures["eval_rewards/accuracies_by_difficulty"] = by_difficulty(margins, seed).accuracy
        if self.settings.timesteps_per_pair == 1:  # else a score has several timesteps
            figures["eval_by_timestep"] = by_timestep(margins, self.process.timesteps, seed)
        return figures

    def beside(self, before: int, margins: Margins) -> dict[str, Any]:
        """What became of the winner's error, and of the accuracy, since the best step so far: of
        the same pairs at the same draws."""
        then = load_file(self.file(before))
        now = columns(margins)
        error = [-2 * part["score_PK"].double().mean(dim=1) for part in (now, then)]
        right = [accuracy(part["margin_PK"].mean(dim=1)).double() for part in (now, then)]
        rise, gain = (
            clustered_mean((a - b).tolist(), self.prompts, self.settings.seed)
            for a, b in (error, right)
        )
        return {
            "best_step": before,
            "since_best/error": rise.value,
            "since_best/error_interval": bounds(rise.as_dict()),
            "since_best/accuracy": gain.value,
            "since_best/accuracy_interval": bounds(gain.as_dict()),
        }

    def file(self, done: int) -> Path:
        """Where the pairs' own numbers at a step are."""
        return self.folder / f"step-{done}.safetensors"


def columns(margins: Margins) -> dict[str, Tensor]:
    """The numbers of each pair at each draw that are kept."""
    assert margins.chosen_PK2 is not None, "of all pairs"
    policy_PK, reference_PK = (part.contiguous() for part in margins.chosen_PK2.unbind(dim=-1))
    return {
        "margin_PK": margins.margin_PK.contiguous(),
        "timestep_PK": margins.timestep_PK.contiguous(),
        "score_PK": policy_PK,
        "reference_PK": reference_PK,
    }


def summary(figures: Mapping[str, Any]) -> str:
    """The main figures in a line."""
    low, high = figures["eval_accuracy_interval"]
    line = f"loss {figures['eval_loss']:.4f}, implicit accuracy"
    line += f" {figures['eval_rewards/accuracies']:.1%} [{low:.1%}, {high:.1%}]"
    if "eval_error/rise" in figures:
        line += f" ({figures['eval_rewards/accuracies_by_difficulty']:.1%} by difficulty alone)"
        share = figures["eval_error/rise"] / figures["eval_error/reference_chosen"]
        line += f", winner's error {share:+.1%} of the reference's"
    return line


def bounds(figure: dict[str, Any]) -> list[float | None]:
    """The interval of an estimate, for JSON."""
    return list(figure["interval"])
