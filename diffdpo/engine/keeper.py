"""A run on disk while it trains: its checkpoints, what is left when it fails, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import broadcast_object_list
from torch import nn

from diffdpo.engine import checkpoint
from diffdpo.engine.averages import NO_AVERAGES, Averages
from diffdpo.engine.background import Background
from diffdpo.engine.bad_steps import not_finite, training_state
from diffdpo.engine.files import draft_of, remove
from diffdpo.engine.resume import Start, find_start, resume, run_state
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.sharding import agreed, is_sharded
from diffdpo.engine.share_writer import snapshot_of_share, write_in_shares
from diffdpo.engine.shares import Share
from diffdpo.errors import SharedError, UserError
from diffdpo.losses.running import RunningMean
from diffdpo.reference import unwrapped


class Keeper:
    """Saves a run, and takes it up again. ``data`` is the fingerprint of its rows."""

    def __init__(
        self,
        accelerator: Accelerator,
        settings: TrainSettings,
        model: nn.Module,
        optimizer: AcceleratedOptimizer,
        effective_batch: int,
        data: str,
        notice: Callable[[str], None],
        averages: Averages = NO_AVERAGES,
        running: RunningMean | None = None,
    ) -> None:
        self.running = running
        self.accelerator, self.settings, self.notice = accelerator, settings, notice
        self.model, self.optimizer = unwrapped(model), optimizer.optimizer
        self.effective_batch, self.data, self.averages = effective_batch, data, averages
        self.output_dir = Path(settings.output_dir)
        self.writer = Background()
        self.size = sum(weight.numel() for weight in checkpoint.trainable(self.model).values())
        self.spared: Callable[[], int | None] = lambda: None  # the step that is kept at any rate
        self.whole: list[Path] = []  # checkpoints that nobody has been told of
        self.told: Callable[[int, Path], object] = lambda step, folder: None

    def save(self, done: int) -> None:
        """Write a checkpoint from the main process, in a thread beside training.

        Raises SharedError where a weight or the optimizer is not finite; older checkpoints stay.
        """
        found = not_finite(training_state(self.model, self.optimizer))
        if name := agreed(self.accelerator, found):
            raise SharedError(
                f"step {done}: {name} is not finite, so this step is not saved; {self.left()};"
                " begin again with a lower --learning_rate"
            )
        # The one before is written first: of these copies, each several times a network, memory
        # holds one.
        self.wait()
        # Copied now, written later: training may go on to the next step at once.
        if is_sharded(self.accelerator) and self.size > checkpoint.IN_SHARES_FROM:
            self.save_share(self.state(done))
            return
        writes = self.accelerator.is_main_process
        if not writes and not is_sharded(self.accelerator):
            return
        moment = checkpoint.snapshot(
            self.model, self.optimizer, self.state(done), self.averages, writes
        )
        if writes:
            self.start(checkpoint.write, moment)

    def save_share(self, state: dict[str, Any]) -> None:
        """Write this process's share of a checkpoint in a thread; all must ask for it together.

        Raises SharedError where they do not see one folder.
        """
        accelerator, path = self.accelerator, checkpoint.path_of(self.output_dir, state)
        drafts = [draft_of(path)]  # the first process's, for all
        if accelerator.is_main_process:
            remove(drafts[0])
            drafts[0].mkdir()
        broadcast_object_list(drafts)
        share = Share(drafts[0], accelerator.process_index, accelerator.num_processes)
        unseen = None if share.is_seen() else f"process {share.number} does not see {share.draft}"
        if found := agreed(accelerator, unseen):
            raise SharedError(
                f"{path}: {found}, and each writes its share of so large a model: take an"
                " --output_dir that all machines share"
            )
        moment = snapshot_of_share(
            self.model, self.optimizer, state, self.averages, accelerator.is_main_process
        )
        self.start(partial(write_in_shares, share=share), moment)

    def start(
        self, write: Callable[[Path, checkpoint.Snapshot], object], moment: checkpoint.Snapshot
    ) -> None:
        """Begin to write a snapshot in the thread, and to delete what then is one too many."""
        held = [moment]  # to be taken out, so that nothing holds it once it is written
        path, spared = checkpoint.path_of(self.output_dir, moment.state), self.spared()

        def work() -> None:
            write(self.output_dir, held.pop())
            if self.accelerator.is_main_process:
                checkpoint.prune(self.output_dir, self.settings.checkpoints_total_limit, spared)
                self.whole.append(path)

        self.writer.start(work)

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises UserError where that went wrong."""
        self.writer.wait()

    def tell(self) -> None:
        """Tell of every checkpoint that has become whole."""
        while self.whole:
            path = self.whole.pop(0)
            self.told(checkpoint.step_of(path), path)

    def checkpoints(self) -> list[Path]:
        """All checkpoints of the run, oldest first."""
        return checkpoint.list_checkpoints(self.output_dir)

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in their order."""
        return [checkpoint.step_of(path) for path in self.checkpoints()]

    def load_result(self, step: int) -> None:
        """Load the weights that a run ending at this checkpoint would have exported.

        Raises UserError where a file is damaged.
        """
        path = self.output_dir / f"checkpoint-{step}"
        checkpoint.load_result(path, self.model, checkpoint.read_state(path))

    def left(self) -> str:
        """What a run that fails leaves, for its last line."""
        self.wait()
        found = self.checkpoints()
        return f"{found[-1]} is whole" if found else "no checkpoint was saved"

    def find_start(self) -> Start:
        """The checkpoint that is to be resumed, checked and not loaded yet."""
        return find_start(self.settings, self.accelerator, self.state(0), self.notice)

    def resume(self, start: Start) -> None:
        """Load the checkpoint to start from, if any.

        Raises SharedError where a weight of the network is not finite, loaded or not.
        """
        model = self.model
        resume(
            start,
            self.output_dir,
            self.accelerator,
            model,
            self.optimizer,
            self.notice,
            self.averages,
        )
        if self.running is not None and start.checkpoint is not None:
            if "running" not in start.state:
                raise UserError(f"{start.checkpoint}: holds no running mean, which the loss reads")
            self.running.load(start.state["running"])
        found = not_finite((name, weight.detach()) for name, weight in model.named_parameters())
        if name := agreed(self.accelerator, found):
            raise SharedError(
                f"weight {name} of the network is not finite before the first step: the model's"
                " files, or those of the checkpoint that is resumed, are damaged"
            )

    def state(self, done: int) -> dict[str, Any]:
        """What a checkpoint at step ``done`` records of the run."""
        own = {} if self.running is None else {"running": self.running.state()}
        return own | run_state(
            self.settings, self.effective_batch, self.data, self.accelerator, done
        )
