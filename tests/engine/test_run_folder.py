"""The end of a run of several processes, of which one has more to do than the others."""

import sys

from tests.processes import run_two

# The processes give up waiting for each other after 5 seconds; each thing takes longer.
END = """
import time
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from diffdpo.engine import run_folder
from diffdpo.engine.settings import TrainSettings


def write():
    time.sleep(6)
    return "written"


def push_to_hub(settings):
    print("upload begins", time.time(), flush=True)
    time.sleep(6)
    print("upload ends", time.time(), flush=True)


run_folder.push_to_hub = push_to_hub
limit = InitProcessGroupKwargs(timeout=timedelta(seconds=5))
accelerator = Accelerator(cpu=True, kwargs_handlers=[limit])
number = accelerator.process_index
accelerator.wait_for_everyone()
run_folder.conclude(TrainSettings(push_to_hub=True), accelerator, None, 3, write)
print(f"process {number} leaves", time.time(), flush=True)
"""


def test_nobody_waits_for_an_upload_and_everybody_for_the_result(tmp_path):
    done = run_two([sys.executable, "-c", END])
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines.count("result       written") == 1
    at = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines[1:]}
    assert at["process 1 leaves"] < at["upload ends"] - 3
    assert at["process 0 leaves"] >= at["upload ends"]
