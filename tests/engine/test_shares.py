"""Checkpoints in shares: every process writes its own, any number of processes reads them."""

import shutil
import sys
import time

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch.distributed.checkpoint import HuggingFaceStorageReader

from diffdpo.commands import export
from diffdpo.commands.settings import ExportSettings
from diffdpo.engine import checkpoint, shares
from diffdpo.engine.checkpoint_state import read_state
from diffdpo.engine.files import draft_of, tidy
from diffdpo.engine.share_writer import snapshot_of_share, write_in_shares
from diffdpo.engine.shares import Share, read_shares
from diffdpo.errors import UserError
from tests.engine.saved import trained
from tests.engine.test_sharding import FSDP2, ONCE, same
from tests.processes import run_two, start_two
from tests.text import runs

# As if the model were beyond the size from which on checkpoints are in shares. Each process says
# what it holds of policy and frozen copy before its shares are made.
LARGE = """
import os
import sys

from diffdpo.cli import run_command
from diffdpo.engine import checkpoint, spreading


def held(network):
    return sum(weight.numel() for weight in network.parameters() if not weight.is_meta)


def shard(network, layers, value_of):
    print("holds", os.environ["RANK"], held(network), flush=True)
    put_in_shares(network, layers, value_of)


checkpoint.IN_SHARES_FROM = 0
put_in_shares, spreading.shard = spreading.shard, shard
sys.exit(run_command(sys.argv[1], sys.argv[2:]))
"""


def in_shares(*words, number=2):
    command = [sys.executable, "-c", LARGE, "train_text_dpo", *words]
    done = run_two(command, number, **FSDP2, **ONCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def two(lm, data, tmp_path_factory):
    """A run of two processes with checkpoints in shares, and its settings."""
    out = tmp_path_factory.mktemp("shares")
    changes = {"max_train_steps": 4, "checkpointing_steps": 2, "ema_decay": 0.5}
    changes |= {"train_batch_size": 2}
    told = in_shares(*runs.flags(lm, data["pairs"], out / "run", **changes))
    (out / "told.txt").write_text(told)
    return out / "run", changes


def resumed(two, data, lm, out, number, **changes):
    """The run, gone on with from step 2 by another ``number`` of processes."""
    run, options = two
    shutil.copytree(run / "checkpoint-2", out / "checkpoint-2")
    shutil.copy(run / "metrics.jsonl", out)
    options = {**options, **changes, "resume_from_checkpoint": "latest"}
    words = runs.flags(lm, data["pairs"], out, **options)
    if number == 1:
        runs.train(*words)
    else:
        in_shares(*words, number=number)
    return runs.metrics(out)


def test_the_first_process_alone_holds_the_model_and_none_a_whole_copy(two):
    """The policy's weights on process 0, which has read them; of the frozen copy, nobody's."""
    told = (two[0].parent / "told.txt").read_text().splitlines()
    lines = [line.split()[1:] for line in told if line.startswith("holds ")]
    size = sum(value.numel() for value in load_file(two[0] / "model.safetensors").values())
    found = {rank: [int(n) for r, n in lines if r == rank] for rank in ("0", "1")}
    assert found == {"0": [size, 0], "1": [0, 0]}


def test_every_process_writes_its_share_and_nobody_all(two):
    run, _ = two
    files = sorted(str(p.relative_to(run)) for p in (run / "checkpoint-4").rglob("*"))
    assert [name.removeprefix("checkpoint-4/") for name in files] == [
        *("averages", "averages/shard-00001-model-00001-of-00001.safetensors"),
        "averages/shard-00002-model-00001-of-00001.safetensors",
        *("optimizer", "optimizer/shard-00001-model-00001-of-00001.safetensors"),
        "optimizer/shard-00002-model-00001-of-00001.safetensors",
        "state.json",
        *("trainable", "trainable/shard-00001-model-00001-of-00001.safetensors"),
        "trainable/shard-00002-model-00001-of-00001.safetensors",
    ]
    sizes = [file.stat().st_size for file in (run / "checkpoint-4/trainable").iterdir()]
    assert max(sizes) < 0.6 * sum(sizes)
    assert not list(run.glob(".checkpoint*"))  # no draft is left
    assert checkpoint.find(run, "latest") == run / "checkpoint-4"


def test_pytorchs_own_reader_reads_them(two):
    run, _ = two
    result = load_file(run / "model.safetensors")  # the moving average
    found = {f"ema.network.{name}": torch.zeros_like(value) for name, value in result.items()}
    reader = HuggingFaceStorageReader(str(run / "checkpoint-4/averages"))
    dcp.load(found, storage_reader=reader, no_dist=True)
    mine = read_shares(run / "checkpoint-4/averages", lambda name: None)
    assert mine.keys() == found.keys()
    for name, value in result.items():
        assert torch.equal(value, found[f"ema.network.{name}"])
        assert torch.equal(value, mine[f"ema.network.{name}"])


def test_one_process_goes_on_with_them_and_export_writes_them_out(two, data, lm, tmp_path):
    lines = runs.metrics(two[0])
    cut = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    for a, b in zip(lines, resumed(two, data, lm, tmp_path, 1, **cut), strict=True):
        assert b == pytest.approx(a, rel=1e-4, abs=1e-5)
    assert (tmp_path / "checkpoint-4/trainable.safetensors").is_file()
    settings = ExportSettings(run=str(two[0]), step=4, output_dir=str(tmp_path / "out"))
    assert export.main(settings) == 0
    assert same(tmp_path / "out/model.safetensors", two[0] / "model.safetensors")


@pytest.mark.slow
def test_two_go_on_to_the_same_bits(two, data, lm, tmp_path):
    assert resumed(two, data, lm, tmp_path, 2) == runs.metrics(two[0])
    assert same(tmp_path / "model.safetensors", two[0] / "model.safetensors")
    for part in ("trainable", "optimizer"):
        one, other = (
            read_shares(folder / "checkpoint-4" / part, lambda name: None)
            for folder in (tmp_path, two[0])
        )
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.slow
def test_four_go_on_with_what_two_have_written(two, data, lm, tmp_path):
    found = resumed(two, data, lm, tmp_path, 4, train_batch_size=1)
    for a, b in zip(runs.metrics(two[0]), found, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-4)
    assert len(list((tmp_path / "checkpoint-4/trainable").iterdir())) == 4


# Process 0 has all words of the others, and has not sealed them yet: the last moment without a
# checkpoint.
NEVER_SEALED = """
import time
from diffdpo.engine import share_writer

gather_words = share_writer.gather_words


def slowly(share):
    found = gather_words(share)
    print("all shares are written", flush=True)
    time.sleep(600)
    return found


share_writer.gather_words = slowly
"""


@pytest.mark.slow
def test_a_run_killed_before_its_shares_are_sealed_begins_anew(two, data, lm, tmp_path):
    run, changes = two
    words = runs.flags(lm, data["pairs"], tmp_path, **changes)
    command = [sys.executable, "-c", NEVER_SEALED + LARGE, "train_text_dpo", *words]
    processes = start_two(command, **FSDP2, **ONCE)
    told = processes[0].files[0]
    try:
        while not told.exists() or "all shares are written" not in told.read_text():
            assert processes[0].poll() is None
            time.sleep(0.1)
    finally:
        for process in processes:
            process.kill()
            process.process.join()
    (draft,) = tmp_path.glob(".checkpoint-2.*.tmp")
    assert len(list(draft.glob("*/*.safetensors"))) == 6
    assert checkpoint.find(tmp_path, "latest") is None
    told = in_shares(*words, "--resume_from_checkpoint", "latest")
    assert "no checkpoint" in told
    assert not list(tmp_path.glob(".checkpoint*"))
    assert runs.metrics(tmp_path) == runs.metrics(run)
    assert same(tmp_path / "model.safetensors", run / "model.safetensors")


SECOND = "optimizer/shard-00002-model-00001-of-00001.safetensors"


def flip(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (flip, "damaged"),
        (lambda file: file.unlink(), "damaged or missing"),
        (lambda file: shutil.copy(file, file.with_name("third.safetensors")), "third"),
    ],
    ids=["a bit", "a file less", "a file more"],
)
def test_damage_of_a_share_is_seen(two, tmp_path, spoil, line):
    shutil.copytree(two[0] / "checkpoint-2", tmp_path / "checkpoint-2")
    spoil(tmp_path / "checkpoint-2" / SECOND)
    with pytest.raises(UserError, match=line):
        checkpoint.find(tmp_path, "checkpoint-2")


def test_rows_that_are_missing_are_seen_without_digests(two, tmp_path):
    folder = tmp_path / "optimizer"
    shutil.copytree(two[0] / "checkpoint-2/optimizer", folder)
    (tmp_path / SECOND).rename(folder / "renamed.safetensors")
    assert read_shares(folder, lambda name: None)
    next(iter(folder.glob("shard-00001*"))).unlink()
    with pytest.raises(UserError, match="damaged or missing"):
        read_shares(folder, lambda name: None)


def moment_of_first():
    """What the first process of a small run writes."""
    model, optimizer = trained(torch.optim.AdamW)
    rest = {"step": 3, "settings": {}, "effective_batch": 2, "data": "d", "scaler": None}
    return snapshot_of_share(model, optimizer, rest, {}, is_first=True)


def test_a_share_that_the_disk_does_not_take_is_no_checkpoint(tmp_path):
    """The process says so in the draft folder, and the first one, which waits there, gives up."""
    moment = moment_of_first()
    draft = tmp_path / ".draft"
    draft.mkdir()
    (draft / "trainable").touch()  # where a folder is to be made
    with pytest.raises(UserError, match="could not be written"):
        write_in_shares(tmp_path, moment, Share(draft, 1, 2))
    (draft / "trainable").unlink()
    with pytest.raises(UserError, match=r"process 1: .*no earlier checkpoint"):
        write_in_shares(tmp_path, moment, Share(draft, 0, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_has_gone_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    moment = moment_of_first()
    (tmp_path / ".draft").mkdir()
    monkeypatch.setattr(shares, "SILENT_SECONDS", 0.3)
    with pytest.raises(UserError, match=r"process 1: nothing of it .*no earlier checkpoint"):
        write_in_shares(tmp_path, moment, Share(tmp_path / ".draft", 0, 2))
    assert list(tmp_path.iterdir()) == []


def test_a_killed_draft_is_no_checkpoint_and_is_tidied(two, tmp_path):
    """A kill before the first process has sealed all shares leaves a draft alone."""
    draft = draft_of(tmp_path / "checkpoint-2")
    shutil.copytree(two[0] / "checkpoint-2", draft)
    assert checkpoint.find(tmp_path, "latest") is None
    tidy(tmp_path, alone=True)
    assert list(tmp_path.iterdir()) == []
    state = read_state(two[0] / "checkpoint-2")
    assert len(state["files"]) == 6
