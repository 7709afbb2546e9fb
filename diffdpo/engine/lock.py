"""One run a folder: a lock that the system takes back when its process ends, however it ends.

The lock is ``flock`` on a file in the folder, which also names the holder. On a file system without
``flock`` the file itself is the lock, and is stale where the process that it names is gone.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from diffdpo.engine.files import HOST, is_alive
from diffdpo.errors import UserError, short

FILE = ".run.lock"
NO_FLOCK = {errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK, errno.EINVAL}
# The locks of this process: it trains one run at a time, and may take the folder of its last run
# again.
held: dict[Path, int] = {}


@dataclass(frozen=True)
class Holder:
    """The process that trains in a folder; ``started`` tells it from a later one of its number."""

    host: str
    process: int
    started: str

    def __str__(self) -> str:
        return f"process {self.process} on {short(self.host)}"

    def is_gone(self) -> bool:
        """Whether the process is known to have ended; of another machine that cannot be known."""
        mine = self.host == HOST
        return mine and not (is_alive(self.process) and self.started == start_of(self.process))


def take(folder: Path, does: str = "trains") -> None:
    """Lock a folder for this process; ``does`` says what the holder of the lock does there.

    Raises UserError where another one holds it, or the disk does not take the lock.
    """
    path = folder.resolve() / FILE
    if path in held:
        return
    try:
        held[path] = locked(path, folder, does)
    except OSError as error:
        raise UserError(
            f"--output_dir {folder}: {FILE} cannot be written ({error.strerror}); mend that and"
            " start again"
        ) from error


def locked(path: Path, folder: Path, does: str) -> int:
    """The open lock file, locked and with the name of this process in it."""
    own = Holder(HOST, os.getpid(), start_of(os.getpid()))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        claim(descriptor, folder, does)
        if is_file_of(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(asdict(own)).encode(), 0)
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return locked(path, folder, does)  # the holder before deleted the file meanwhile


def claim(descriptor: int, folder: Path, does: str) -> None:
    """Lock an open file, or find that nobody holds it. Raises UserError where somebody does."""
    holder = read_holder(descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno not in NO_FLOCK:
            raise
        if holder is None or holder.is_gone():
            return
    # Nobody but its user knows whether a process of another machine is gone.
    elsewhere = holder is not None and holder.host != HOST
    way = f" (where that has ended, delete {folder / FILE})" if elsewhere else ""
    raise UserError(
        f"--output_dir {folder}: {holder or 'another process'} {does} in it{way}; wait for its"
        " end, or choose another --output_dir"
    )


def read_holder(descriptor: int) -> Holder | None:
    """The holder that a lock file names; None where it names none."""
    try:
        return Holder(**json.loads(os.pread(descriptor, 10_000, 0)))
    except (ValueError, TypeError):
        return None


def is_file_of(path: Path, descriptor: int) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def start_of(process: int) -> str:
    """When a process began, in the system's own count; '' where that cannot be read."""
    try:
        # The name of the program, in brackets, may hold spaces; the start is the 20th after it.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def release() -> None:
    """Give back every lock of this process."""
    while held:
        path, descriptor = held.popitem()
        with suppress(OSError):  # the folder may be gone
            path.unlink()
        os.close(descriptor)


def forget() -> None:
    """Let go of the locks in a child: a worker that outlives its run must not hold them."""
    for descriptor in held.values():
        os.close(descriptor)
    held.clear()


os.register_at_fork(after_in_child=forget)
