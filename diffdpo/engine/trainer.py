"""The training step, and the loop around it, over accelerate. It knows no modality.

Shapes: ``B`` pairs of a micro-batch, ``N`` items: ``2B``, chosen first, or single labelled ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffdpo.engine import sharding
from diffdpo.engine.averages import averages_of
from diffdpo.engine.bad_steps import BadSteps, all_finite, take_step
from diffdpo.engine.batches import Rows, Stream, check_batch, positions, step_batches
from diffdpo.engine.callbacks import Callbacks
from diffdpo.engine.checkpoint import trainable
from diffdpo.engine.compilation import compilation, compile_networks
from diffdpo.engine.interrupts import moment
from diffdpo.engine.keeper import Keeper
from diffdpo.engine.optim import make_optimizer, make_schedule
from diffdpo.engine.plan import Plan
from diffdpo.engine.recorder import Judge, Recorder
from diffdpo.engine.resume import Start
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.signals import StopRequest
from diffdpo.engine.spreading import spread
from diffdpo.engine.start_check import check_start
from diffdpo.engine.step_context import Scorers, reward_total, step_context
from diffdpo.engine.task import Task
from diffdpo.engine.transfer import on_device
from diffdpo.engine.watch.ending import Ending
from diffdpo.engine.watch.evals import Measures
from diffdpo.engine.watch.monitor import Monitor
from diffdpo.losses.means import Metrics, mean_of
from diffdpo.objective.scores import StepContext
from diffdpo.objective.terms import Objective
from diffdpo.preference import implicit_reward
from diffdpo.reference import Reference, unwrapped


@dataclass(frozen=True)
class MicroStep:
    """The loss of a micro-batch, with gradient, and of each of its rows, without; scores and
    rewards ``(N,)``; metrics."""

    loss: Tensor
    loss_B: Tensor
    policy_N: Tensor
    reward_N: Tensor
    metrics: Metrics


class Trainer:
    """Trains ``model`` against ``reference`` on the pairs in ``rows``; ``fit`` runs it."""

    def __init__(
        self,
        accelerator: Accelerator,
        settings: TrainSettings,
        model: nn.Module,
        task: Task,
        reference: Reference,
        objective: Objective,
        rows: Rows,
        notice: Callable[[str], None],
    ) -> None:
        self.accelerator, self.settings, self.notice = accelerator, settings, notice
        self.task, self.reference, self.objective, self.rows = task, reference, objective, rows
        self.output_dir = Path(settings.output_dir)
        self.plan = Plan(settings, len(rows), accelerator.num_processes)
        batch = self.plan.effective_batch
        check_batch(batch, len(rows))
        self.layers = spread(model, reference, task, settings, accelerator)
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = make_optimizer(self.parameters, settings, notice)
        if settings.torch_compile:
            compile_networks(model, reference)
        self.model, self.optimizer = sharding.prepare(accelerator, model, optimizer)
        self.schedule = make_schedule(settings, self.plan.total_steps, self.plan.peak_rate)
        self.stream = Stream(rows, settings.seed)
        self.bad_steps = BadSteps(settings.max_bad_steps, self.stream, batch, accelerator, notice)
        weights = trainable(unwrapped(self.model))
        self.averages = averages_of(reference, weights, settings.ema_decay)
        self.monitor = Monitor(settings, accelerator, self.averages, objective, notice)
        judges = (self.bad_steps.judge, self.monitor.watch.judge)
        self.recorder = Recorder(self.output_dir, accelerator, batch, judges)
        self.keeper = Keeper(
            accelerator, settings, self.model, self.optimizer, batch, rows.fingerprint, notice,
            self.averages, objective.running,
        )  # fmt: skip
        self.keeper.spared = self.monitor.evals.spared
        self.heard: Callable[[Any], None] = lambda frozen_N: None
        self.finite = torch.tensor(True)  # loss and gradient of the last step, still on the device

    def micro_step(self, batch: Any, context: StepContext) -> MicroStep:
        """Score one micro-batch by reference and policy; returns loss, rewards and metrics.

        The reference goes first: switching adapters off and on must not touch a graph that waits
        for its backward pass.
        """
        draw = self.task.draw(batch)  # on the device, once for both
        frozen_N = self.reference.score(self.task.score, self.model, draw)  # log π_ref, no gradient
        policy = self.task.score(self.model, draw)  # log π: Wallace et al. 2023, eq. 14, or exact
        reward_N = implicit_reward(policy.score_N, frozen_N)  # Rafailov et al. 2023, eq. 5
        context = self.objective.settled(reward_N, context)
        loss_B = self.objective.loss(policy, reward_N, draw, context)  # their eq. 7
        loss = loss_B.mean()
        with torch.no_grad():
            metrics = {
                "loss": loss.detach(),
                **self.objective.metrics(reward_N, draw, context),
                **self.objective.guard_metrics(policy),
                **self.task.metrics(policy, frozen_N, draw, context),
            }
        self.heard(frozen_N)
        return MicroStep(loss, loss_B.detach(), policy.score_N.detach(), reward_N.detach(), metrics)

    def step(self, micro_batches: list[Any], rate: float, number: int) -> Metrics:
        """Step ``number`` of the run, from 1 on; returns its means, still on the device."""
        # Set by hand: the rate is a function of the step, and no scheduler has to be resumed.
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        context = self.context(micro_batches)
        every_metrics, every_loss, rewards = [], [], []
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            # Processes exchange gradients in the backward pass; once, with the last micro-batch, is
            # enough, since gradients add up.
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                result = self.micro_step(batch, context.at(index))
                # Micro-batches are equally large: the mean of their means is the step's mean.
                self.accelerator.backward(result.loss / len(micro_batches))
            if number == 1 and index == 0 and self.reference.starts_equal:
                scale, found = self.objective.reward_scale, (result.reward_N, result.policy_N)
                check_start(self.reference, *found, scale, self.settings, self.notice)
            every_metrics.append(result.metrics)
            every_loss.append(result.loss_B)
            rewards.append(result.reward_N)
        # accelerate divides by the scale of float16 losses first, so that the limit and the logged
        # norm are those of the true gradient.
        norm = sharding.clipped(self.accelerator, self.parameters, self.settings.max_grad_norm)
        self.bad_steps.losses = torch.stack(every_loss)
        self.finite = all_finite(self.bad_steps.losses, norm, self.accelerator)
        take_step(self.optimizer, self.finite)
        for average in self.averages.values():
            average.update(self.finite, number)
        if self.objective.running is not None:
            self.objective.running.add(*reward_total(rewards, self.total), self.finite)
        self.optimizer.zero_grad()
        return {**mean_of(every_metrics), "grad_norm": norm.float()}

    def context(self, micro_batches: list[Any]) -> StepContext:
        """What every micro-batch of a step must know of all of them, over all processes."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        scorers = Scorers(self.task, self.model, self.reference, self.total, world, rank)
        return step_context(self.objective, scorers, micro_batches)

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        summed: Tensor = self.accelerator.reduce(on_device(value, self.accelerator.device))
        return summed

    def listen(self, callbacks: Callbacks) -> None:
        """Call these while training."""
        self.recorder.on_step, self.keeper.told = callbacks.logged, callbacks.saved
        self.monitor.callbacks = callbacks

    def overhear(self, heard: Callable[[Any], None], judge: Judge) -> None:
        """Give ``heard`` the reference's scores of every micro-batch, still on the device, and
        ``judge`` every record."""
        self.heard = heard
        self.recorder.judges = (*self.recorder.judges, judge)

    def fit(self, start: Start, measures: Measures | None = None) -> Ending:
        """Train from ``start`` to the end of the run, or until a request to stop.

        Raises UserError after ``max_bad_steps`` steps in a row whose numbers are not finite, and
        after the step that ``--on_drift stop`` ends with.
        """
        self.keeper.resume(start)
        begun = done = start.step
        self.monitor.begin(done, self.recorder.keep_until(done), measures)
        moment.checkpoints = self.keeper.checkpoints
        saving = False
        self.model.train()
        self.recorder.start_clock()
        with (
            StopRequest(self.plan.next_pause(done)) as stop,
            self.recorder.bar(done, self.plan.total_steps) as bar,
        ):
            for micro_batches in () if self.monitor.ends else self.batches(begun):
                # Asked only now: while rows were read, the device finished the step before.
                if not self.finite:
                    self.flush(bar)
                rate = self.plan.peak_rate * self.schedule(done)
                with compilation(self.settings.torch_compile and done == begun, self.notice):
                    metrics = self.step(micro_batches, rate, done + 1)
                done += 1
                self.recorder.add(done, rate, metrics)
                bar.update()
                # Before a checkpoint: a run resumed from it must find what was measured.
                saving |= self.monitor.after_step(done).save
                saving = self.settle(done, saving, stop, bar)
                self.keeper.tell()
                if (stop.agreed or self.monitor.ends) and not saving:
                    break
        if saving:
            self.bad_steps.refuse_result(self.keeper.left)
        self.keeper.wait()  # raises what went wrong with the last checkpoint
        self.keeper.tell()
        self.accelerator.wait_for_everyone()
        return self.monitor.ending(begun, done, self.plan.total_steps, self.keeper.left)

    def settle(self, done: int, saving: bool, stop: StopRequest, bar: tqdm) -> bool:
        """Write what is due after step ``done``, metrics and a checkpoint, and agree to stop.

        ``saving``: a checkpoint has been due since a step before. Returns whether one still is.
        """
        settings, accelerator = self.settings, self.accelerator
        saving |= done % settings.checkpointing_steps == 0 or done == self.plan.total_steps
        heard = self.monitor.callbacks.heard
        due = saving or heard or done % settings.logging_steps == 0
        # To agree, processes wait for each other: they do it where they wait anyway.
        if due or accelerator.num_processes == 1:
            stop.agree(accelerator, self.plan.next_pause(done))
        saving |= stop.agreed
        if due or saving:
            # Before a checkpoint: a run resumed from it must find all its lines.
            self.flush(bar)
            saving |= self.monitor.callbacks.agreed(accelerator).save
        if self.monitor.watch.rolls_back:
            return False  # to a checkpoint before this step
        saving |= self.monitor.watch.stops
        # One that falls due after a bad step waits until a step shows the weights to work.
        if saving and not self.bad_steps.in_a_row:
            self.keeper.save(done)
            saving = False
        return saving

    def place_result(self, done: int) -> int:
        """Put the weights that are exported after step ``done`` in place; returns their step."""
        step = self.monitor.result_step(self.keeper.steps())
        if step is not None:
            self.keeper.load_result(step)
        elif "ema" in self.averages:
            self.averages["ema"].swap()
        return done if step is None else step

    def make_whole(self) -> None:
        """Gather weights in shares on the first process, which writes the result."""
        if sharding.is_sharded(self.accelerator):
            sharding.make_whole(self.model, keep=self.accelerator.is_main_process)

    def flush(self, bar: tqdm) -> None:
        """Write the collected metrics, and end the run after too many bad steps in a row."""
        bar.set_postfix(self.recorder.flush())
        self.bad_steps.stop_after_too_many(self.keeper.left)

    def batches(self, start: int) -> Iterator[list[Any]]:
        """The micro-batches of this process, step by step from ``start`` on."""
        settings, accelerator = self.settings, self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        steps, micro = self.plan.total_steps, settings.train_batch_size
        accumulation, kind = settings.gradient_accumulation_steps, accelerator.device.type
        return step_batches(
            self.stream,
            positions(start, steps, micro, accumulation, rank, world),
            self.task.collate,
            accumulation,
            settings.workers_on(kind),
            pin=kind == "cuda",
        )
