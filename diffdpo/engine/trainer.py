"""THE engine: step, loop, log, save, resume, over accelerate. It knows no modality.

Shapes: ``B`` pairs of a micro-batch, ``N = 2B`` items, winners first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm.auto import tqdm

from diffdpo.config import TrainSettings, as_dict
from diffdpo.engine import checkpoint
from diffdpo.engine.batches import Rows, Stream, positions, step_batches
from diffdpo.engine.compilation import compilation, compile_networks
from diffdpo.engine.journal import Journal
from diffdpo.engine.optim import make_optimizer, make_schedule
from diffdpo.engine.signals import StopRequest
from diffdpo.errors import UserError
from diffdpo.objective import Criterion, Metrics, complete, fraction
from diffdpo.preference import implicit_reward
from diffdpo.reference import Reference, Stored, unwrapped

TOTALS = {"num_tokens"}  # metrics that add up over a run, as TRL's do


class Task(Protocol):
    """All that a modality contributes to training."""

    def collate(self, items: list[Any]) -> Any:
        """A batch of ``B`` pairs from what the rows gave; runs in the data workers."""
        ...

    def draw(self, batch: Any) -> Any:
        """Everything random and everything without gradient, once, for policy and reference alike.
        The value has an attribute ``outcome_B``: P(chosen ≻ rejected) per pair, or None where every
        label is certain."""
        ...

    def score(self, model: nn.Module, draw: Any) -> Tensor:
        """Log-likelihood surrogates ``(N,)`` in nats, float32, higher is better, winners first."""
        ...

    def metrics(self, policy_N: Tensor, reference_N: Tensor | float) -> Metrics:
        """The modality's own means of a micro-batch, still on the device."""
        ...


class Trainer:
    """Trains ``model`` against ``reference`` on the pairs in ``rows``; ``fit`` returns the last
    step done."""

    def __init__(
        self,
        accelerator: Accelerator,
        settings: TrainSettings,
        model: nn.Module,
        task: Task,
        reference: Reference,
        objective: Criterion,
        rows: Rows,
        notice: Callable[[str], None],
    ) -> None:
        self.accelerator, self.settings, self.notice = accelerator, settings, notice
        self.task, self.reference, self.objective, self.rows = task, reference, objective, rows
        self.output_dir = Path(settings.output_dir)
        self.journal = Journal(self.output_dir / "metrics.jsonl")
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = make_optimizer(self.parameters, settings, notice)
        if settings.torch_compile:
            compile_networks(model, reference)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.schedule = make_schedule(settings, self.total_steps, self.peak_rate)
        self.writer = checkpoint.Background()
        self.totals: dict[str, int] = {}
        self.pending: list[tuple[int, float, Metrics]] = []
        self.clock = time.perf_counter()

    @property
    def effective_batch(self) -> int:
        """Pairs per optimizer step, over all processes and micro-batches."""
        settings = self.settings
        return (
            settings.train_batch_size
            * settings.gradient_accumulation_steps
            * self.accelerator.num_processes
        )

    @property
    def peak_rate(self) -> float:
        """The learning rate after ``--scale_lr``."""
        return self.settings.learning_rate * (self.effective_batch if self.settings.scale_lr else 1)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that see every row about once."""
        return max(1, round(len(self.rows) / self.effective_batch))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        if self.settings.max_train_steps is not None:
            return self.settings.max_train_steps
        return max(1, round(self.settings.num_train_epochs * len(self.rows) / self.effective_batch))

    def plan(self, what: str) -> dict[str, str]:
        """How the run will go, for the lines at its start; ``what`` the rows are."""
        settings, steps = self.settings, self.total_steps
        parts = [
            settings.train_batch_size,
            settings.gradient_accumulation_steps,
            self.accelerator.num_processes,
        ]
        scaled = " (scaled)" if settings.scale_lr else ""
        epochs = steps * self.effective_batch / len(self.rows)
        return {
            "batch": (
                f"{self.effective_batch} {what} = {parts[0]} x {parts[1]} accumulated x {parts[2]}"
                " processes"
            ),
            "rate": (
                f"{self.peak_rate:g}{scaled}, {settings.lr_scheduler}, {settings.lr_warmup_steps}"
                " warm-up steps"
            ),
            "steps": f"{steps:,} = {epochs:.2f} epochs; to {settings.output_dir}",
        }

    def fit(self, after_step: Callable[[int], None] = lambda step: None) -> int:
        """Train from where the run stands to its end, or to a request to stop; returns the steps
        done."""
        begun = done = self.resume()
        settings, accelerator = self.settings, self.accelerator
        rank, world, parts = (
            accelerator.process_index,
            accelerator.num_processes,
            settings.gradient_accumulation_steps,
        )
        plan = positions(done, self.total_steps, settings.train_batch_size, parts, rank, world)
        stream = Stream(self.rows, settings.seed)
        batches = step_batches(
            stream, plan, self.task.collate, parts, settings.dataloader_num_workers
        )
        quiet = not accelerator.is_local_main_process
        bar = tqdm(
            total=self.total_steps, initial=done, desc="training", unit="step", disable=quiet
        )
        self.model.train()
        self.clock = time.perf_counter()
        with StopRequest() as stop, bar:
            for micro_batches in batches:
                rate = self.peak_rate * self.schedule(done)
                with compilation(settings.torch_compile and done == begun, self.notice):
                    metrics = self.step(micro_batches, rate, first=done == 0)
                done += 1
                self.pending.append((done, rate, metrics))
                bar.update()
                saving = done % settings.checkpointing_steps == 0 or done == self.total_steps
                due = saving or done % settings.logging_steps == 0
                if due:
                    bar.set_postfix(self.flush())
                if (
                    due or world == 1
                ):  # several processes agree only where they wait for each other anyway
                    stop.agree(accelerator)
                if saving or stop.agreed:
                    self.flush()
                    self.save(done)
                after_step(done)
                if stop.agreed:
                    break
        self.flush()
        self.writer.wait()
        accelerator.wait_for_everyone()
        return done

    def step(self, micro_batches: list[Any], rate: float, first: bool = False) -> Metrics:
        """One optimizer step at the given learning rate; returns means over its micro-batches, on
        the device."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        known = self.objective.prepare(self, micro_batches)
        parts = []
        for index, batch in enumerate(micro_batches):
            last = index == len(micro_batches) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                metrics, reward_N, loss = self.micro_step(batch, known)
                self.accelerator.backward(loss / len(micro_batches))
            if first and index == 0 and self.reference.starts_equal:
                self.prove_start(reward_N)
            parts.append(metrics)
        norm = self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = {name: torch.stack([part[name] for part in parts]).mean(dim=0) for name in parts[0]}
        return {**means, "grad_norm": torch.as_tensor(norm).detach().float()}

    def micro_step(self, batch: Any, known: Any) -> tuple[Metrics, Tensor, Tensor]:
        """Metrics, rewards ``(N,)`` and loss of one micro-batch; the loss carries the gradient."""
        draw = self.task.draw(batch)
        # The reference goes first: switching adapters off and on must not touch a graph that waits
        # for backward.
        reference_N = self.reference.score(self.task.score, self.model, draw)
        policy_N = self.task.score(self.model, draw)
        loss, metrics = self.objective.judge(policy_N, reference_N, draw, known)
        with torch.no_grad():
            metrics = {
                "loss": loss.detach(),
                **metrics,
                **self.task.metrics(policy_N.detach(), reference_N),
            }
        return metrics, (policy_N - reference_N).detach(), loss

    @torch.no_grad()
    def mean_reward(self, draws: Iterable[Any]) -> Tensor:
        """The mean reward of all items of ``draws``, over all processes; an extra pass without
        gradient."""
        total = torch.zeros(2, device=self.accelerator.device)
        for draw in draws:
            reference_N = self.reference.score(self.task.score, self.model, draw)
            reward_N = implicit_reward(self.task.score(unwrapped(self.model), draw), reference_N)
            total += torch.stack([reward_N.sum(), reward_N.new_tensor(float(len(reward_N)))])
        reward_sum, count = self.total(total)
        return reward_sum / count

    def total(self, value: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        return self.accelerator.reduce(value.to(self.accelerator.device))

    def prove_start(self, reward_N: Tensor) -> None:
        """Before the first step policy and reference are the same function: every reward must be
        exactly zero, up to rounding where the reference was scored before, in other batches."""
        worst = reward_N.abs().max().item() * self.objective.reward_scale
        if isinstance(self.reference, Stored):
            self.notice(
                f"reference    stored and live logits differ by at most {2 * worst:.3g} in the"
                " first batch"
            )
        elif (
            worst and self.settings.torch_compile
        ):  # policy and reference, with and without gradient, round apart
            self.notice(
                f"compiled     policy and reference differ by {worst:.3g} nats before the first"
                " step: rounding"
            )
        elif worst != 0:
            self.notice(
                "WARNING: policy and reference differ before the first step (reward up to"
                f" {worst:.3g} nats)"
            )

    def flush(self) -> dict[str, str]:
        """Write the collected metrics out; the only place that waits for the device. Returns the
        bar's postfix."""
        if not self.pending:
            return {}
        names = list(self.pending[0][2])
        table = torch.stack(
            [torch.stack([fraction(m[name]) for name in names]) for _, _, m in self.pending]
        )
        rows = self.accelerator.reduce(table, reduction="mean").tolist()
        elapsed, self.clock = time.perf_counter() - self.clock, time.perf_counter()
        pace = len(self.pending) * self.effective_batch / elapsed
        records = [
            {"step": step, **complete(names, row), "lr": rate, "pairs_per_second": pace}
            for (step, rate, _), row in zip(self.pending, rows, strict=True)
        ]
        self.pending.clear()
        for record in records:
            for name in TOTALS & set(record):
                self.totals[name] = record[name] = self.totals.get(name, 0) + round(record[name])
        if self.accelerator.is_main_process:
            self.journal.append(records)
        for record in records:
            self.accelerator.log(
                {k: v for k, v in record.items() if k != "step"}, step=record["step"]
            )
        latest = records[-1]
        shown = {"loss": "loss", "acc": "rewards/accuracies", "margin": "rewards/margins"}
        return {word: f"{latest[name]:.4g}" for word, name in shown.items() if name in latest}

    def state(self, done: int) -> dict[str, Any]:
        """What a checkpoint says of its run."""
        scaler = self.accelerator.scaler
        return {
            "step": done,
            "settings": as_dict(self.settings),
            "effective_batch": self.effective_batch,
            "data": self.rows.fingerprint,
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def save(self, done: int) -> None:
        """Write a checkpoint from the main process, beside training."""
        if self.accelerator.is_main_process:
            moment = checkpoint.snapshot(
                unwrapped(self.model), self.optimizer.optimizer, self.state(done)
            )

            def work() -> None:
                checkpoint.write(self.output_dir, moment)
                checkpoint.prune(self.output_dir, self.settings.checkpoints_total_limit)

            self.writer.start(work)

    def resume(self) -> int:
        """Load the checkpoint asked for and forget later metrics; returns the steps done."""
        wanted = self.settings.resume_from_checkpoint
        path = checkpoint.find(self.output_dir, wanted) if wanted else None
        done = 0
        if path is not None:
            state = checkpoint.read_state(path)
            self.check_same_run(path, state)
            checkpoint.load(path, unwrapped(self.model), self.optimizer.optimizer, state)
            if self.accelerator.scaler is not None and state["scaler"]:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            done = state["step"]
            self.notice(f"resumed      {path} at step {done}")
        elif wanted:
            self.notice(
                f"resume       no checkpoint in {self.output_dir} yet: starting from step 0"
            )
        if self.accelerator.is_main_process:
            self.journal.keep_until(done)
        self.accelerator.wait_for_everyone()
        last = self.journal.last() if done else {}
        self.totals = {name: last[name] for name in TOTALS & set(last)}
        return done

    def check_same_run(self, path: Path, state: dict[str, Any]) -> None:
        """Raises UserError with a line for each setting in which the checkpoint's run differs from
        this one."""
        free, now = self.settings.free_on_resume(), as_dict(self.settings)
        then = state["settings"]
        mistakes = [
            f"{path}: its run has --{name} {then.get(name)}, this one {value}"
            for name, value in now.items()
            if name not in free and then.get(name) != value
        ]
        if state["effective_batch"] != self.effective_batch:
            mistakes.append(
                f"{path}: its effective batch is {state['effective_batch']}, not"
                f" {self.effective_batch}"
            )
        if state["data"] != self.rows.fingerprint:
            mistakes.append(f"{path}: its run was trained on other data")
        if mistakes:
            raise UserError(*mistakes)
