"""SIGTERM and Ctrl-C during training as requests to stop: the step is finished and saved first.

A second signal ends the process at once. The end of the launcher counts as a first one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator

from diffdpo.engine.console import complain
from diffdpo.engine.interrupts import launcher_is_gone


class StopRequest:
    """A context in which the two signals are noted instead of killing the process.

    ``last`` is the step after which a request made now would be followed.
    """

    def __init__(self, last: int) -> None:
        self.requested = self.agreed = False
        self.before: dict[int, Any] = {}
        self.process = os.getpid()
        self.last = last

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python lets no other thread set handlers: the signals stay as they are
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Note the request and answer it; restore the old handlers, so that a second one acts."""
        if os.getpid() != self.process:
            return  # a data worker inherits the handler; the step that is finished needs it
        self.requested = True
        self.__exit__()
        answer(f"finishing step {self.last}, then saving; again to quit now")

    def agree(self, accelerator: Accelerator, last: int) -> None:
        """Settle that all processes stop after the same step, whichever got the signal.

        ``last`` is the step after which a request that comes from now on would be followed.
        """
        if launcher_is_gone() and not self.requested:
            self.requested = True
            answer("the launcher is gone: saving and stopping")
        # No call stands between these two, so that no signal is answered between them: one that
        # comes later is told the later step.
        self.agreed = self.requested
        self.last = last
        # One that left alone would leave the others waiting for its gradients for ever.
        if accelerator.num_processes > 1:
            flag = torch.tensor([float(self.agreed)], device=accelerator.device)
            self.agreed = bool(accelerator.reduce(flag).item() > 0)


def answer(line: str) -> None:
    """Print a line below the progress bar, from the first process only."""
    try:
        complain("", line)
    except RuntimeError:  # the signal came while the very same stream was being written
        with contextlib.suppress(OSError):
            os.write(2, f"\n{line}\n".encode())
