"""Checkpoints and the journal: whole or not at all, and the same bits back."""

import resource

import pytest
import torch
from transformers import Adafactor

from diffdpo.engine import checkpoint
from diffdpo.engine.background import Background
from diffdpo.engine.files import atomic_files, atomic_folder, write_atomically
from diffdpo.engine.journal import Journal
from diffdpo.errors import UserError
from tests.engine.saved import go_on_alike, save, train_step, trained


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [
        (torch.optim.AdamW, {"fused": True}),
        (Adafactor, {"scale_parameter": False, "relative_step": False}),
    ],
)
def test_training_goes_on_bit_for_bit(tmp_path, optimizer_class, options):
    model, optimizer = trained(optimizer_class, **options)
    path = save(tmp_path, model, optimizer, {"step": 3})
    other, fresh = trained(optimizer_class, **options)
    train_step(other, fresh)
    checkpoint.load(path, other, fresh, checkpoint.read_state(path))
    assert go_on_alike((model, optimizer), (other, fresh))


def test_only_what_is_trained_is_written_and_nothing_is_pickled(tmp_path):
    path = save(tmp_path, *trained(torch.optim.AdamW), {"step": 3})
    assert sorted(p.name for p in path.iterdir()) == [
        "optimizer.safetensors",
        "state.json",
        "trainable.safetensors",
    ]
    assert "0.bias" not in checkpoint.read_tensors(path / "trainable.safetensors")


def test_the_oldest_go_first(tmp_path):
    model, optimizer = trained(torch.optim.AdamW)
    for step in (2, 10, 9):
        save(tmp_path, model, optimizer, {"step": step})
    checkpoint.prune(tmp_path, 2)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == [
        "checkpoint-9",
        "checkpoint-10",
    ]
    checkpoint.prune(tmp_path, None)
    assert checkpoint.find(tmp_path, "latest").name == "checkpoint-10"


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path):
    model, optimizer = trained(torch.optim.AdamW)
    save(tmp_path, model, optimizer, {"step": 3})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, before[1]))  # no file may grow beyond 64 bytes
    try:
        with pytest.raises(UserError, match="checkpoint-3 is whole"):
            save(tmp_path, model, optimizer, {"step": 6})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-3"]
    checkpoint.load(
        tmp_path / "checkpoint-3",
        model,
        optimizer,
        checkpoint.read_state(tmp_path / "checkpoint-3"),
    )


def test_a_snapshot_is_what_was_and_not_what_becomes(tmp_path):
    model, optimizer = trained(torch.optim.AdamW)
    before = [weight.detach().clone() for weight in model.parameters() if weight.requires_grad]
    moment = checkpoint.snapshot(model, optimizer, {"step": 3})
    steps = {name: value.clone() for name, value in moment.optimizer.items()}
    train_step(model, optimizer)
    assert all(torch.equal(a, b) for a, b in zip(moment.weights.values(), before, strict=True))
    assert all(torch.equal(value, steps[name]) for name, value in moment.optimizer.items())


def test_work_in_the_background_is_done_in_turn_and_its_errors_come_back():
    done, writer = [], Background()
    for step in range(3):
        writer.start(lambda step=step: done.append(step))
    writer.wait()
    assert done == [0, 1, 2]

    def fail():
        raise UserError("the disk is full")

    writer.start(fail)
    with pytest.raises(UserError, match="full"):
        writer.wait()
    writer.wait()


def fail_half_way(target):
    with atomic_folder(target) as draft:
        (draft / "file").write_text("half")
        raise OSError("half")


def test_a_failed_write_leaves_the_old_content(tmp_path):
    target = tmp_path / "folder"
    for content in ("old", "new"):
        with atomic_folder(target) as draft:
            (draft / "file").write_text(content)
    with pytest.raises(OSError, match="half"):
        fail_half_way(target)
    assert (target / "file").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_files_move_in_beside_others(tmp_path):
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "stale").touch()
    with atomic_files(tmp_path) as draft:
        (draft / "unet").mkdir()
        (draft / "unet" / "fresh").touch()
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [
        "kept",
        "unet",
        "unet/fresh",
    ]


def test_the_journal_forgets_later_steps_and_half_lines(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append([{"step": step, "loss": step / 3} for step in (1, 2, 3)])
    with journal.path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in journal.read()] == [1, 2, 3]
    journal.keep_until(2)
    journal.append([{"step": 3, "loss": 1.0}])
    assert journal.read() == [
        {"step": 1, "loss": 1 / 3},
        {"step": 2, "loss": 2 / 3},
        {"step": 3, "loss": 1.0},
    ]


def test_write_atomically_replaces(tmp_path):
    for text in ("a", "b"):
        write_atomically(tmp_path / "f", text)
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("f", "b")]
