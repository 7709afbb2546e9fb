"""From which step on a run only paid: the winner's error rose, and held-out accuracy did not."""

from __future__ import annotations

from collections.abc import Sequence

from diffdpo.engine.watch.evals import Line, best_of

ERROR, GAIN = "since_best/error_interval", "since_best/accuracy_interval"


def overtrained_from(lines: Sequence[Line], metric: str) -> int | None:
    """The step from which on every measurement was worse than the best one: on the same pairs at
    the same draws the winner's error lies significantly above that of the best step, and implicit
    accuracy does not. None where the last one is not so, or nothing of the kind was measured.

    ``metric`` says which step was best. Significant: the 95 % interval of the difference, clustered
    by prompt, does not reach 0.
    """
    best, found = best_of(lines, metric), None
    for line in reversed(lines):
        # Only what was measured beside the step that is the best of all.
        if line["step"] == best or line.get("best_step") != best or not is_worse(line):
            break
        found = int(line["step"])
    return found


def is_worse(line: Line) -> bool:
    """Whether a measurement has a larger error on winners than the best one, and no gain."""
    low, gain = line[ERROR][0], line[GAIN][0]
    return low is not None and low > 0 and not (gain is not None and gain > 0)


def verdict(lines: Sequence[Line], metric: str) -> list[str]:
    """A line where a run is over-trained, with what it paid and what it gained; none elsewhere."""
    step = overtrained_from(lines, metric)
    if step is None:
        return []
    last = lines[-1]
    error, gain = last["since_best/error"], last["since_best/accuracy"]
    return [
        f"over-trained from step {step}: since step {last['best_step']}, the best by {metric}, the"
        f" winner's held-out error changed by {error:+.3g} and implicit accuracy by {gain:+.1%}"
    ]
