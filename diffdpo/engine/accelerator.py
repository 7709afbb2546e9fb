"""The device that a command samples on; and accelerate set up for a run: device, precision,
tracker, and faster PyTorch on a CPU."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration

from diffdpo.engine import lock
from diffdpo.engine.console import say
from diffdpo.engine.launcher import check_launcher, shard_on_cpu
from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.waiting import PATIENCE
from diffdpo.errors import UserError, short

TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb", "comet_ml": "comet_ml"}
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT_BYTES = 2**31 - 1  # the most that mallopt's int can say


def make_accelerator(settings: TrainSettings) -> Accelerator:
    """The accelerate set-up of a run: CPU, one GPU, or several by DistributedDataParallel or FSDP2.

    Raises UserError where accelerate is set to spread weights in another way, or the settings do
    not go with that.
    """
    cpu = is_on_cpu()
    check_launcher(settings)
    asked = settings.precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = usable_precision(asked, cpu)
    if cpu:
        tune_cpu()
    # Set in either case, not only switched on: a run must not inherit it from one before it in the
    # same program.
    torch.backends.cuda.matmul.allow_tf32 = settings.allow_tf32
    if precision == "no" and not settings.allow_tf32 and torch.cuda.is_available() and not cpu:
        say("--allow_tf32: off, and float32 is slow on a GPU: take it, or --mixed_precision bf16")
    if settings.deterministic:
        repeat_bit_for_bit()
    folder = Path(settings.output_dir)
    project = ProjectConfiguration(
        project_dir=str(folder), logging_dir=str(folder / settings.logging_dir)
    )
    log_with = trackers(settings.report_to)
    try:
        accelerator = Accelerator(
            mixed_precision=precision, cpu=cpu, log_with=log_with, project_config=project
        )
        name_cpu_alike(accelerator)
        shard_on_cpu(accelerator)
    except ValueError as error:  # this program has set accelerate up for something else before
        raise UserError(f"accelerate: {short(error, 200)}") from error
    return accelerator


def sampling_device() -> torch.device:
    """The device of a command that samples and judges: one GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sharing_accelerator() -> Accelerator:
    """Accelerate for a command that trains nothing, and whose processes share its work."""
    cpu = is_on_cpu()
    if cpu:
        tune_cpu()
    try:
        patient = InitProcessGroupKwargs(timeout=PATIENCE)
        accelerator = Accelerator(mixed_precision="no", cpu=cpu, kwargs_handlers=[patient])
    except ValueError as error:  # this program has set accelerate up for something else before
        raise UserError(f"accelerate: {short(error, 200)}") from error
    name_cpu_alike(accelerator)
    return accelerator


def usable_precision(precision: str, cpu: bool) -> str:
    """The precision, or float32 with a line where this device has no other."""
    if precision == "fp16" and cpu:
        say("--mixed_precision fp16: needs a GPU; this run on the CPU uses float32")
        return "no"
    return precision


def name_cpu_alike(accelerator: Accelerator) -> None:
    """Call the CPU ``cpu``, as with one process, where accelerate calls it ``cpu:0``.

    To PyTorch they are two devices: a tensor moved from one to the other is copied, laid out anew,
    and a sum over it rounded otherwise. Numbers must not depend on how many processes there are.
    """
    if accelerator.device.type == "cpu":
        for state in (PartialState(), accelerator.state):
            state.device = torch.device("cpu")


def repeat_bit_for_bit() -> None:
    """Let PyTorch use only algorithms that give the same bits every time.

    An operation that has none raises RuntimeError when it runs.
    """
    # cuBLAS reads this when it is first used; any other value than its two is refused by PyTorch.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it would choose an algorithm by its time


@contextmanager
def own_state() -> Iterator[None]:
    """A context after which accelerate can be set up anew, with another precision, and PyTorch's
    choice of algorithms is as before.

    Accelerate keeps its state for the life of a process. Only a state made inside the context is
    given up; one that the program had before stays.
    """
    is_ours = not AcceleratorState._shared_state
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        lock.release()
        if is_ours:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def is_on_cpu() -> bool:
    """Whether a run is to compute on the CPU: nothing else is there, or the launcher says so."""
    there = torch.cuda.is_available() or torch.backends.mps.is_available()
    return not there or on_cpu_by_request()


def on_cpu_by_request() -> bool:
    """Whether the launcher was told to use the CPU."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")


def trackers(named: str | list[str]) -> list[str] | str | None:
    """The trackers to log to; of each whose package is not installed there is a line instead."""
    # No error: metrics.jsonl is written in any case, so that nothing is lost without a tracker.
    names = [named] if isinstance(named, str) else named
    if names in (["none"], ["all"]):
        return "all" if names == ["all"] else None
    for name in names:
        if importlib.util.find_spec(TRACKERS[name]) is None:
            package = TRACKERS[name]
            say(
                f"--report_to {name}: {package} is not installed; metrics go to metrics.jsonl alone"
            )
    return [name for name in names if importlib.util.find_spec(TRACKERS[name])] or None


def tune_cpu() -> None:
    """Make PyTorch faster on a CPU: flush denormal numbers to zero, and keep freed memory."""
    # The gradients of a saturated loss are denormal, and a step on them is seven times slower.
    torch.set_flush_denormal(True)
    # By default glibc returns every large tensor to the system and gets it again page by page,
    # which is a tenth of a float32 step.
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
