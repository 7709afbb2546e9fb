"""Work in a thread beside training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """Runs work in a thread beside training, one piece at a time.

    Its errors are raised by the next ``start`` or ``wait``.
    """

    # One worker, so that checkpoints are written and pruned in the order of their steps.

    def __init__(self) -> None:
        self.pool, self.pending = ThreadPoolExecutor(max_workers=1), list[Future]()

    def start(self, work: Callable[[], object]) -> None:
        """Wait for the work begun before, then begin this one."""
        self.wait()
        self.pending.append(self.pool.submit(work))

    def wait(self) -> None:
        """Wait until all work is done."""
        while self.pending:
            self.pending.pop().result()
