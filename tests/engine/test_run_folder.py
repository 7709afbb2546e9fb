"""The end of a run of several processes, of which one has more to do than the others."""

import sys
from types import SimpleNamespace
from typing import ClassVar

import huggingface_hub
import pytest

from diffdpo.engine.run_folder import push_to_hub
from diffdpo.engine.settings import TrainSettings
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


class Hub:
    """What the library's client is asked for."""

    asked: ClassVar[list] = []

    def __init__(self, token=None):
        pass

    def create_repo(self, name, **options):
        return SimpleNamespace(repo_id=f"me/{name}")

    def create_branch(self, *names, **options):
        self.asked.append(("branch", *names, options["branch"]))

    def upload_folder(self, **options):
        self.asked.append(("upload", options["repo_id"], options["revision"]))


@pytest.mark.parametrize("branch", [None, "beta-0.1"])
def test_a_result_goes_to_the_branch_that_is_named(branch, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    Hub.asked.clear()
    settings = TrainSettings(output_dir=str(tmp_path), hub_model_id="dpo", hub_revision=branch)
    push_to_hub(settings)
    made = [("branch", "me/dpo", branch)] if branch else []
    assert Hub.asked == [*made, ("upload", "me/dpo", branch)]
