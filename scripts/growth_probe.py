"""One cell of ``scripts/growth.py``, in a process of its own:
``growth_probe.py COMMAND RESULT.json FLAGS…``.

It runs a command of whichever ``diffdpo`` is on the path, another checkout's too, and touches only
what all of them have: a trainer that fits, an optimizer that steps, networks that are called.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

STEPS = 10  # after the first
EVERY = 0.1  # seconds between two looks at the memory
MIB = 1 << 20


class Enough(BaseException):
    """Ends the command after the last step. Not an Exception, so that nothing handles it."""


def now() -> tuple[float, float]:
    """Wall seconds, and CPU seconds of this process and of those that it started and saw end."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter(), time.process_time() + children.ru_utime + children.ru_stime


def memory() -> int:
    """Bytes of this process and its children that no file backs; shared pages count in parts."""
    return sum(anonymous(pid) for pid in family(os.getpid()))


def anonymous(pid: int) -> int:
    """The same of one process; 0 where it has ended."""
    try:
        rolled = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"Pss_Anon:\s+(\d+) kB", rolled)
    return int(found[1]) * 1024 if found else 0


def family(pid: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # The name before it may hold blanks and brackets.
            words = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(words[1]), []).append(int(folder.name))
    found = [pid]
    for one in found:
        found += parents.get(one, [])
    return found


class Peak(threading.Thread):
    """Looks at the memory until the process ends."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.first = self.most = memory()

    def run(self) -> None:
        """The thread's work."""
        while True:
            self.most = max(self.most, memory())
            time.sleep(EVERY)


class Probe:
    """Times a command from its call: to the first step, the step, and calls of networks."""

    def __init__(self) -> None:
        self.begun, self.steps = now(), 0
        self.facts: dict[str, float] = {}
        self.inside = 0.0  # CPU seconds of the networks since the first step
        self.calls: list[tuple[float, int]] = []  # CPU seconds at the end of a call, and its items

    def watch(self, command: str) -> None:
        """Put the hooks where every version of the package has the same names."""
        from torch.optim.optimizer import register_optimizer_step_post_hook

        trainer: Any = importlib.import_module("diffdpo.engine.trainer").Trainer
        wrap(trainer, "fit", before=self.at_fit)
        register_optimizer_step_post_hook(self.after_step)
        accelerator: Any = importlib.import_module("accelerate").Accelerator
        wrap(accelerator, "backward", around=self.add)
        if command == "text":
            wrap(token_scorer(), "forward", around=self.add)
            return
        module: Any = importlib.import_module("diffdpo.image.backbones.stable_diffusion")
        wrap(module.StableDiffusion, "predict", around=self.add, is_class_method=True)
        for name in ("posterior", "encode_prompts"):
            wrap(module.StableDiffusion, name, around=self.add)

    def add(self, call: Callable[[], Any]) -> Any:
        """Run a network, and count its time as none of ours."""
        begin = now()[1]
        result = call()
        end = now()[1]
        self.inside += end - begin
        self.calls.append((end, 1))
        return result

    def at_fit(self) -> None:
        """The start is over."""
        wall, cpu = (there - here for here, there in zip(self.begun, now(), strict=True))
        self.facts |= {"start_wall": wall, "start_cpu": cpu}
        self.begun = now()

    def after_step(self, *_: Any) -> None:
        """The hook of the optimizer. Raises Enough after the last step."""
        self.steps += 1
        if self.steps == 1:
            self.facts["first_step"] = now()[1] - self.begun[1]
            self.begun, self.inside = now(), 0.0
        elif self.steps > STEPS:
            self.facts["step"] = (now()[1] - self.begun[1] - self.inside) / STEPS
            raise Enough


def token_scorer() -> Any:
    """The class of the token scorer; it stood elsewhere before text had rooms."""
    place = "diffdpo.text.scoring.scorer"
    if importlib.util.find_spec("diffdpo.text.scoring") is None:
        place = "diffdpo.text.scorer"
    return importlib.import_module(place).TokenScorer


def wrap(
    owner: Any,
    name: str,
    before: Callable[[], None] | None = None,
    around: Callable[[Callable[[], Any]], Any] | None = None,
    is_class_method: bool = False,
) -> None:
    """Call ``before`` first, or hand the call to ``around``, whenever ``owner.name`` is called."""
    inner = owner.__dict__.get(name) or getattr(owner, name)
    function = inner.__func__ if is_class_method else inner

    def outer(*args: Any, **options: Any) -> Any:
        if before is not None:
            before()
        if around is None:
            return function(*args, **options)
        return around(lambda: function(*args, **options))

    setattr(owner, name, classmethod(outer) if is_class_method else outer)


def main(argv: list[str]) -> int:
    """Run the command, write what was measured; returns the command's own exit code."""
    name, result, *flags = argv
    modality = "text" if "--model_name_or_path" in flags else "image"
    modules = {"text": "train_text_dpo", "image": "train_diffusion_dpo"}
    importlib.import_module(f"diffdpo.commands.{modules[modality]}")
    from diffdpo.cli import run_command

    peak, code = Peak(), 0
    peak.start()
    probe = Probe()
    probe.watch(modality)
    probe.begun = now()
    with suppress(Enough):
        code = run_command(name, flags)
    if name == "precompute" and len(probe.calls) > 1:
        # From the end of the first call: what loads or compiles by itself is not the rate.
        probe.facts["calls"] = len(probe.calls)
        probe.facts["span"] = now()[1] - probe.calls[0][0]
    peak.most = max(peak.most, memory())
    probe.facts["memory"] = (peak.most - peak.first) / MIB
    Path(result).write_text(json.dumps(probe.facts))
    sys.stdout.flush()
    os._exit(code)  # without the farewell of a run that was left in the middle


if __name__ == "__main__":
    main(sys.argv[1:])
