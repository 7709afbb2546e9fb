"""How a run ended, and which step's weights are its result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diffdpo.engine.watch.evals import Evals
from diffdpo.engine.watch.watch import Watch
from diffdpo.errors import SharedError


@dataclass(frozen=True)
class Ending:
    """The steps that were done, and whether the run came to its end: all of them, or fewer for a
    reason that was found on the way. A run that was merely stopped can go on."""

    done: int
    finished: bool


def result_step(
    saved: Sequence[int], watch: Watch, evals: Evals, notice: Callable[[str], None]
) -> int | None:
    """The step of the checkpoint that is the result; None where it is the weights as they are.

    ``saved`` are the steps of the checkpoints that there are. Raises SharedError where the one that
    is wanted is none of them.
    """
    if watch.rolls_back and watch.drifted:
        step, drift = watch.drifted
        before = [one for one in saved if one < step]
        if not before:
            raise SharedError(
                f"--on_drift rollback: winner drift {drift} at step {step}, and no checkpoint was"
                " saved before it; begin again with fewer --checkpointing_steps"
            )
        notice(f"rolled back  to step {before[-1]}, the last checkpoint before step {step}")
        return before[-1]
    if not evals.settings.keep_best:
        return None
    best, wanted = evals.best(saved), evals.best()
    if best is None:
        raise SharedError("--keep_best: no checkpoint is left of any step that was measured")
    gone = "" if best == wanted else f"; that of step {wanted}, which was better, is gone"
    notice(f"best         step {best} by {evals.metric}: its weights are the result{gone}")
    return best
