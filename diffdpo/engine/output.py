"""Standard output and error of a command, which outlive whoever reads them.

``diffdpo train_text_dpo … 2>&1 | tee log`` and Ctrl-C end tee first: the line that answers Ctrl-C
then has no reader, and must not end the run before its checkpoint. The same holds for a terminal
that is gone, and for a log file on a full disk.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import Any

from diffdpo.errors import UserError

NO_READER = errno.EPIPE  # as of ``| head``: who reads has seen enough


class Outlet(io.FileIO):
    """A file descriptor that is written to as long as that works; ``lost`` is why it does not."""

    lost: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write bytes; what the system does not take is lost."""
        try:
            # None: a pipe that does not block is full, and its reader is waited for.
            while (written := super().write(data)) is None:
                select.select([], [self], [])
            return written
        except OSError as error:
            self.lost = self.lost or error
            return memoryview(data).nbytes


def outlive() -> None:
    """Put streams that do not fail in the place of this process's stdout and stderr.

    What their encoding does not know, as '…' in ASCII, is written as an escape.
    """
    for name in ("stdout", "stderr"):
        before: io.TextIOWrapper | None = getattr(sys, name)
        if before is None:  # closed, as by >&-
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            continue
        outlet = Outlet(before.fileno(), "wb", closefd=False)
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(outlet),
                before.encoding,
                "backslashreplace",
                line_buffering=before.line_buffering or before.write_through,
            ),
        )


def check_written() -> None:
    """Raise UserError where something that was printed on stdout did not get there, although
    somebody is waiting for it."""
    sys.stdout.flush()
    outlet: Any = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    lost = outlet.lost if isinstance(outlet, Outlet) else None
    if lost is not None and lost.errno != NO_READER:
        raise UserError(f"standard output: cannot be written ({lost.strerror})")
