"""SIGTERM and Ctrl-C as a request: finish the step, save, leave. A second one ends the process at
once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator


class StopRequest:
    """A context in which the two signals set a flag instead of killing the process."""

    def __init__(self) -> None:
        self.asked = self.agreed = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self  # Python hands signals to the main thread alone, and lets no other ask
        for number in (signal.SIGTERM, signal.SIGINT):
            self.before[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """Remember the request and give the signals back, so that a second one acts."""
        self.asked = True
        self.__exit__()

    def agree(self, accelerator: Accelerator) -> None:
        """Let all processes stop after the same step, whichever of them was asked."""
        if accelerator.num_processes == 1:
            self.agreed = self.asked
        else:
            flag = torch.tensor([float(self.asked)], device=accelerator.device)
            self.agreed = bool(accelerator.reduce(flag).item() > 0)
