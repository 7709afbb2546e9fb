"""SIGTERM and Ctrl-C as requests to stop: the step is finished and saved first.

A second signal ends the process at once.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator


class StopRequest:
    """A context in which the two signals are noted instead of killing the process."""

    def __init__(self) -> None:
        self.requested = self.agreed = False
        self.before: dict[int, Any] = {}

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
        """Note the request, and restore the old handlers, so that a second signal acts."""
        self.requested = True
        self.__exit__()

    def agree(self, accelerator: Accelerator) -> None:
        """Settle that all processes stop after the same step, whichever got the signal."""
        # One that left alone would leave the others waiting for its gradients for ever.
        if accelerator.num_processes == 1:
            self.agreed = self.requested
        else:
            flag = torch.tensor([float(self.requested)], device=accelerator.device)
            self.agreed = bool(accelerator.reduce(flag).item() > 0)
