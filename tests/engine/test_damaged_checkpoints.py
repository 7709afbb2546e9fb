"""Checkpoints that are damaged or of something else are named; the newest whole one is found."""

import json

import pytest
import torch
from safetensors.torch import save_file

from diffdpo.engine import checkpoint
from diffdpo.errors import UserError
from tests.engine.saved import go_on_alike, save, train_step, trained


def test_damage_is_named(tmp_path):
    model, optimizer = trained(torch.optim.AdamW)
    path = save(tmp_path, model, optimizer, {"step": 3})
    state = checkpoint.read_state(path)
    weights = path / "trainable.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    for read in (lambda: checkpoint.load(path, model, optimizer, state),
                 lambda: checkpoint.find(tmp_path, "checkpoint-3")):  # fmt: skip
        with pytest.raises(UserError, match=r"trainable\.safetensors: damaged"):
            read()
    (path / "state.json").write_text(json.dumps({"format": "somebody else's"}))
    with pytest.raises(UserError, match="not a checkpoint of diffdpo"):
        checkpoint.read_state(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        checkpoint.find(tmp_path, "checkpoint-4")
    assert checkpoint.find(tmp_path / "nowhere", "latest") is None


def test_weights_of_another_network_are_refused(tmp_path):
    path = save(tmp_path, *trained(torch.optim.AdamW), {"step": 3})
    other = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 1))
    with pytest.raises(UserError, match="another network"):
        checkpoint.load(
            path, other, torch.optim.AdamW(other.parameters()), checkpoint.read_state(path)
        )


def damaged(path, name, change):
    """A checkpoint with one file changed."""
    file = path / name
    file.write_bytes(change(file.read_bytes()))


def flip(place):
    def change(content):
        content = bytearray(content)
        content[int(place * (len(content) - 1))] ^= 4
        return bytes(content)

    return change


@pytest.mark.parametrize("place", [0, 0.02, 0.5, 1])
@pytest.mark.parametrize("name", ["trainable.safetensors", "optimizer.safetensors", "state.json"])
def test_latest_takes_the_newest_whole_one_and_says_what_it_leaves_out(tmp_path, name, place):
    model, optimizer = trained(torch.optim.AdamW)
    for step in (3, 6):
        save(tmp_path, model, optimizer, {"step": step})
    damaged(tmp_path / "checkpoint-6", name, flip(place))
    lines = []
    assert checkpoint.find(tmp_path, "latest", lines.append).name == "checkpoint-3"
    (line,) = lines
    assert line.startswith("left out")
    assert "checkpoint-6" in line
    with pytest.raises(UserError, match="checkpoint-6"):
        checkpoint.find(tmp_path, "checkpoint-6")
    damaged(tmp_path / "checkpoint-3", name, flip(place))
    with pytest.raises(UserError) as caught:
        checkpoint.find(tmp_path, "latest")
    assert len(caught.value.mistakes) == 3  # a line for each, and that none is left


def test_what_is_not_a_checkpoint_is_left_out_and_never_deleted(tmp_path):
    path = save(tmp_path, *trained(torch.optim.AdamW), {"step": 3})
    (tmp_path / "checkpoint-1000").mkdir()
    (tmp_path / "checkpoint-1000" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-20").mkdir()
    (tmp_path / "checkpoint-30").write_text("a file")
    (tmp_path / "checkpoint-40").symlink_to(tmp_path / "nowhere")
    (tmp_path / "checkpoint-best").mkdir()
    path.rename(tmp_path / "elsewhere")
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "elsewhere")
    lines = []
    assert checkpoint.find(tmp_path, "latest", lines.append) == path
    assert [line.split("checkpoint-")[1].split(":")[0] for line in lines] == [
        "1000", "40", "30", "20",
    ]  # fmt: skip
    checkpoint.prune(tmp_path, 1)
    assert len(list(tmp_path.glob("checkpoint-*"))) == 6
    save(tmp_path, *trained(torch.optim.AdamW), {"step": 6})
    checkpoint.prune(tmp_path, 1)  # a link goes, and not what it leads to
    assert (tmp_path / "elsewhere" / "state.json").exists()
    assert checkpoint.list_checkpoints(tmp_path) == [tmp_path / "checkpoint-6"]
    checkpoint.set_aside(tmp_path, 6)
    assert checkpoint.find(tmp_path, "latest", lines.clear).name == "checkpoint-6"
    assert (tmp_path / "checkpoint-1000.abandoned" / "trainer_state.json").exists()


def test_a_kill_while_checkpoints_are_set_aside_leaves_one_branch(tmp_path, monkeypatch):
    for step in (3, 6, 9, 12):
        save(tmp_path, *trained(torch.optim.AdamW), {"step": step})
    rename, left = type(tmp_path).rename, [2]

    def dying(path, target):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(type(tmp_path), "rename", dying)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.set_aside(tmp_path, 3)
    assert [p.name for p in checkpoint.list_checkpoints(tmp_path)] == [
        "checkpoint-3",
        "checkpoint-6",
    ]


def test_a_renamed_checkpoint_does_not_lead_to_another_step(tmp_path):
    path = save(tmp_path, *trained(torch.optim.AdamW), {"step": 3})
    path.rename(tmp_path / "checkpoint-9")
    with pytest.raises(UserError, match="checkpoint-9: holds checkpoint-3"):
        checkpoint.find(tmp_path, "latest")


def without_digests(path, **changes):
    """A checkpoint as an earlier version wrote it; ``changes`` of its state, None removes."""
    state = json.loads((path / "state.json").read_text())
    state = {**state, "format": "diffdpo checkpoint 1", "files": None, "digest": None, **changes}
    kept = {name: value for name, value in state.items() if value is not None}
    (path / "state.json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("step", [None, "word", -3, 3.0, True, 10**12]),
        ("settings", [None, [], "s"]),
        ("effective_batch", [None, "4", -1]),
        ("data", [None, 4]),
        ("optimizer", [None, [], {}, {"values": []}]),
        ("scaler", ["scale", 3]),
    ],
)
def test_a_state_without_digests_is_held_to_its_form(tmp_path, field, values):
    path = save(tmp_path, *trained(torch.optim.AdamW), {"step": 3})
    without_digests(path)
    assert checkpoint.find(tmp_path, "latest") == path
    for value in values:
        without_digests(path, **{field: value, "optimizer": {"values": {}}} | {field: value})
        with pytest.raises(UserError, match=r"damaged|holds checkpoint|not a checkpoint"):
            checkpoint.find(tmp_path, "checkpoint-3")


def by_number(tensors):
    """The names that earlier versions gave them."""
    numbers = {"0.weight": 0, "1.weight": 1, "1.bias": 2}
    parts = [(key, *key.rpartition(".")[::2]) for key in tensors]
    return {
        f"{numbers[weight]}.{name}" if weight in numbers else key: tensors[key]
        for key, weight, name in parts
    }


def test_an_optimizer_by_the_numbers_of_weights_is_read(tmp_path):
    """As earlier versions wrote it."""
    model, optimizer = trained(torch.optim.AdamW, fused=True)
    path = save(tmp_path, model, optimizer, {"step": 3})
    file = path / "optimizer.safetensors"
    save_file(by_number(checkpoint.read_tensors(file)), file)
    other, fresh = trained(torch.optim.AdamW, fused=True)
    train_step(other, fresh)
    state = json.loads((path / "state.json").read_text())
    checkpoint.load(path, other, fresh, state)
    assert go_on_alike((model, optimizer), (other, fresh))


def spoiled(tensors, name, value):
    rest = {key: tensor for key, tensor in tensors.items() if key != name}
    return rest if value is None else {**rest, name: value}


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("0.weight.exp_avg", torch.zeros(1), r"0\.weight\.exp_avg has the shape \(1,\)"),
        ("1.weight.exp_avg_sq", torch.zeros(3, 1), r"1\.weight\.exp_avg_sq has the shape"),
        ("0.weight.exp_avg", None, r"0\.weight\.exp_avg is missing"),
        ("1.bias.step", None, r"1\.bias\.step is missing"),
        ("7.exp_avg", torch.zeros(1), "7.exp_avg is not the name"),
        ("abc", torch.zeros(1), "abc is not the name"),
        ("a.b", torch.zeros(1), "a.b is not the name"),
        ("0.bias.step", torch.zeros(1), "0.bias.step is not the name"),  # it is not trained
        ("0.weight.exp_avg", torch.full((3, 4), torch.nan), "not finite"),
    ],
)
@pytest.mark.parametrize("numbered", [False, True])
def test_an_optimizer_of_another_form_is_refused(tmp_path, name, value, line, numbered):
    model, optimizer = trained(torch.optim.AdamW, fused=True)
    path = save(tmp_path, model, optimizer, {"step": 3})
    without_digests(path)
    file = path / "optimizer.safetensors"
    tensors = checkpoint.read_tensors(file)
    if numbered:
        tensors, name = by_number(tensors), next(iter(by_number({name: 0})))
        line = "it is of 8 weights or more" if name == "7.exp_avg" else line
    save_file(spoiled(tensors, name, value), file)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train_step(model, optimizer)
    with pytest.raises(UserError, match=line):
        checkpoint.load(path, model, optimizer, checkpoint.read_state(path))
    assert any(not torch.equal(v, before[k]) for k, v in model.state_dict().items())  # not loaded


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model, optimizer = trained(torch.optim.AdamW)
    with torch.no_grad():
        model[1].weight[0, 0] = torch.inf
    path = save(tmp_path, model, optimizer, {"step": 3})
    with pytest.raises(UserError, match=r"1 weights are not finite, first 1\.weight"):
        checkpoint.load(path, model, optimizer, checkpoint.read_state(path))
