"""Real processes that begin at once: forks of a server that has imported the libraries.

Exit codes, signals, groups of processes and what a killed one leaves are those of a process of its
own; only the seconds of importing are spared. What is about imports, launchers or the installed
commands themselves starts a fresh interpreter with ``tests.conftest.run``.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import threading
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import torch

from tests.conftest import ROOT, THREADS

COMMANDS = ("train_diffusion_dpo", "train_text_dpo", "precompute", "evaluate", "evaluate_text")
COMMANDS += ("annotate",)
LAZY = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")  # imported when first named
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        *(f"diffdpo.commands.{name}" for name in (*COMMANDS, "export")),
        *("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "peft", "datasets"),
        *("transformers.models.llama.modeling_llama", "matplotlib.figure", "torch.distributed"),
    ]
)


class Started:
    """A running command, with the part of ``subprocess.Popen`` that tests use.

    ``command`` is what Popen would get: the interpreter, then ``-c`` and code, ``-m`` and a module
    or a script's path, then the flags. What it prints, and what it complains of, goes behind what
    stands in ``files``.
    """

    def __init__(
        self,
        command: list[Any],
        cwd: Path = ROOT,
        files: list[Path] | None = None,
        **environment: str,
    ) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.files = files or [Path(self.folder.name) / name for name in ("out", "err")]
        words = [str(word) for word in command[1:]]
        self.process = SERVER.Process(target=carry_out, args=(words, cwd, environment, self.files))
        self.process.start()
        self.pid = self.process.pid

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self.process.exitcode

    returncode = property(poll)

    def send_signal(self, number: int) -> None:
        """As from another shell."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Without a word."""
        self.process.kill()

    def communicate(self, timeout: float = 180) -> tuple[str, str]:
        """Wait for its end; what it printed and what it complained of."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"{timeout} s: {self.files[1].read_text()[-2000:]}")
        printed, complaint = (file.read_text() for file in self.files)
        return printed, complaint


def carry_out(words: list[str], cwd: Path, environment: dict[str, str], files: list[Path]) -> None:
    """In the fork: what the interpreter would do with these words."""
    for stream, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.environ.update({**THREADS, **environment})
    # What an interpreter reads at its start; sums of other numbers of threads round otherwise.
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    os.chdir(cwd)
    how, argument = words[0], words[1] if len(words) > 1 else ""
    sys.argv = words[1:] if how == "-m" else ["-c", *words[2:]] if how == "-c" else words
    try:
        if how == "-c":
            exec(compile(argument, "<string>", "exec"), {"__name__": "__main__"})
        elif how == "-m":
            runpy.run_module(argument, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(how, run_name="__main__")
    finally:
        threading._shutdown()  # an interpreter's end, of which multiprocessing leaves this out:
        atexit._run_exitfuncs()  # first its threads, then what was registered


def run_forked(command: list[Any], cwd: Path = ROOT, **environment: str) -> CompletedProcess[str]:
    """``tests.conftest.run`` without the seconds of importing."""
    return finished([Started(command, cwd, **environment)])


def start_two(command: list[Any], number: int = 2, **environment: str) -> list[Started]:
    """Two processes of one run on this machine, or another ``number``, as a launcher would start
    them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": f"{number}", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"ACCELERATE_USE_CPU": "true", "LOCAL_WORLD_SIZE": f"{number}", **environment}
    return [Started(command, RANK=str(n), LOCAL_RANK=str(n), **shared) for n in range(number)]


def run_two(command: list[Any], number: int = 2, **environment: str) -> CompletedProcess[str]:
    """The same to the end: what both printed, and the first code that is not 0."""
    return finished(start_two(command, number, **environment))


def finished(processes: list[Started]) -> CompletedProcess[str]:
    """All to their end, as one."""
    told = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    printed, complaint = ("".join(texts) for texts in zip(*told, strict=True))
    return CompletedProcess([], next((code for code in codes if code), 0), printed, complaint)
