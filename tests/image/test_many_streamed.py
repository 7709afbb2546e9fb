"""A start on many shards costs what a start on few does, and a run on them survives a kill."""

import cProfile
import time

import pytest

from diffdpo.engine.trainer import Trainer
from tests.commands.image_runs import flags, metrics, same, train, wait_for_lines, weights
from tests.conftest import script
from tests.data.shards import many_pairs
from tests.processes import Started

FEW, MANY = 10_000, 200_000
COMMON = {"streaming": True, "train_batch_size": 2, "resolution": 32, "checkpointing_steps": 3}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return {count: many_pairs(folder / f"{count}", count) for count in (FEW, MANY)}


def start(*words):
    """Function calls and CPU seconds before the first step of a run."""
    profile, real, before = cProfile.Profile(), Trainer.step, time.process_time()
    spent = []

    def step(*arguments, **others):
        profile.disable()
        spent.append(time.process_time() - before)
        return real(*arguments, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        profile.enable()
        train(*words)
    return sum(entry.callcount for entry in profile.getstats()), spent[0]


@pytest.mark.slow
def test_a_start_reads_no_row_by_itself_and_a_killed_run_goes_on_bit_for_bit(
    models, sets, tmp_path
):
    common = COMMON | {"precompute_dir": tmp_path / "cache"}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    train(*flags(models(), sets[MANY], straight, **common, max_train_steps=6))
    # After the first run: what is imported on the way is imported by now.
    (calls, seconds), (many_calls, many_seconds) = (
        start(*flags(models(), sets[n], tmp_path / f"{n}", **common, max_train_steps=1))
        for n in (FEW, MANY)
    )
    # A loop over rows that calls one function for each would add a call a row. Groups have 100.
    assert many_calls - calls < 0.2 * (MANY - FEW)
    assert many_seconds - seconds < 4
    words = flags(
        models(), sets[MANY], killed, **common, max_train_steps=6, resume_from_checkpoint="latest"
    )
    process = Started(script("train_diffusion_dpo", *words))
    wait_for_lines(process, killed, 4)
    process.kill()
    process.communicate()
    assert not (killed / "pytorch_lora_weights.safetensors").exists()
    train(*words)
    assert metrics(killed) == metrics(straight)
    assert same(weights(killed), weights(straight))
