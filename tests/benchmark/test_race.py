"""The race to quality: when weights are written, who trains on what, and what is on the disk."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from diffdpo.errors import UserError
from scripts.benchmark import snapshots
from scripts.benchmark.gate import Channel, Stop
from scripts.benchmark.peers import Peer
from scripts.benchmark.quality import runs
from scripts.benchmark.quality.command import GRID_SEED, Races, RaceSettings, check_programs
from scripts.benchmark.quality.runs import Run, every_line, judge, train
from scripts.benchmark.quality.tasks import (
    TASKS,
    chosen_tasks,
)
from scripts.benchmark.snapshots import Moments, Snapshots, trained_by, write_weights
from scripts.benchmark.work import claimed
from tests.conftest import ROOT

SHAPE = {
    "sample_size": 4, "block_out_channels": (8,), "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("CrossAttnUpBlock2D",), "layers_per_block": 1, "cross_attention_dim": 8,
    "attention_head_dim": 1, "norm_num_groups": 4,
}  # fmt: skip


def network(seed=0):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(**SHAPE)


class Clock:
    """Seconds that a test sets: a step takes two, and to look takes three."""

    def __init__(self):
        self.wall = 0.0

    def __call__(self):
        self.wall += 3
        return self.wall, self.wall / 2


def train_with(moments, optimizer, monkeypatch, steps=50):
    """Reports of a loop that knows nothing of the hook, and the weights after each step."""
    clock, out, after = Clock(), io.StringIO(), []
    monkeypatch.setattr(snapshots, "now", clock)
    weights = optimizer.param_groups[0]["params"]

    def loop():
        for _ in range(steps):
            clock.wall += 2
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            after.append(weights[0].detach() - 1)  # SGD with a rate of 1
            optimizer.step()

    with Snapshots(moments, Channel(out, io.StringIO())), pytest.raises(Stop):
        loop()
    return [json.loads(line) for line in out.getvalue().splitlines()], after


def test_weights_are_written_at_moments_of_the_programs_own_clock(tmp_path, monkeypatch):
    policy, reference = network(), network(1)
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    moments = Moments([6.0, 12.0, 19.0], str(tmp_path))
    reports, after = train_with(moments, optimizer, monkeypatch)
    # A step ends 2 s, and 3 s for the look at the clock, after the last one; what lies between the
    # hook's first and its second look is no time of the program's.
    assert [(report["kind"], report.get("step")) for report in reports] == [
        ("snapshot", 2), ("snapshot", 3), ("snapshot", 4), ("done", None),
    ]  # fmt: skip
    assert [report["seconds"] for report in reports] == [10, 15, 20, 20]
    assert [report["cpu"] for report in reports] == [5, 7.5, 10, 10]
    assert {report.get("setup", 5) for report in reports} == {5}
    name = next(name for name, _ in policy.named_parameters())
    for report in reports[:-1]:
        loaded = type(reference).from_pretrained(f"{report['folder']}/unet")
        wanted = after[report["step"] - 1]
        torch.testing.assert_close(loaded.state_dict()[name], wanted)


def test_steps_end_a_small_run(tmp_path, monkeypatch):
    policy = network()
    optimizer = torch.optim.SGD(policy.parameters(), lr=1.0)
    reports, _ = train_with(Moments([1e9], str(tmp_path), steps=2), optimizer, monkeypatch)
    assert [report.get("step") for report in reports] == [1, 2, None]


def test_a_lora_is_written_as_a_policy_of_that_kind(tmp_path):
    from peft import LoraConfig
    from safetensors.torch import load_file

    policy = network()
    policy.requires_grad_(False)
    policy.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_v"]))
    held = [weight for weight in policy.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(held, lr=1.0)
    assert trained_by(optimizer) is policy
    write_weights(policy, tmp_path)
    saved = load_file(tmp_path / "pytorch_lora_weights.safetensors")
    assert sum(weight.numel() for weight in saved.values()) == sum(w.numel() for w in held)
    assert len(saved) == len(held)


def test_weights_of_no_network_are_refused():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    with pytest.raises(RuntimeError, match="0 networks hold the weights"):
        trained_by(optimizer)


def test_names_that_take_no_part_are_refused():
    with pytest.raises(UserError, match="--tasks lore: no such task; known: lora"):
        chosen_tasks(["lore"])
    races = Races(RaceSettings(programs=["their"]), None, [])
    with pytest.raises(UserError, match=r"--programs their: takes part in none .* known: ours"):
        check_programs(races, [TASKS["lora"]])
    races = Races(RaceSettings(), None, [Peer("salesforce", Path("train.py"))])
    with pytest.raises(UserError, match=r"--peer_script train.py: .* none .* velocities"):
        check_programs(races, TASKS.values())
    races = Races(RaceSettings(), None, [Peer("diffusers", Path("theirs.py"))])
    with pytest.raises(UserError, match="name a task in which it does"):
        check_programs(races, [TASKS["flow"]])


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"first": 700.0}, "--first 700 is not before the end, --seconds 300"),
        ({"seeds": [0, GRID_SEED]}, f"--seeds {GRID_SEED}: is the seed by which rates are chosen"),
    ],
)
def test_settings_that_contradict_each_other(change, line):
    assert replace(RaceSettings(), **change).problems() == [line]


def test_moments_lie_evenly_on_the_logarithm():
    moments = RaceSettings(first=2.0, seconds=32.0, snapshots=5).moments
    assert moments.seconds == pytest.approx([2, 4, 8, 16, 32])
    assert moments.steps is None


def test_the_plan_tries_rates_first_and_then_takes_turns(tmp_path):
    races = Races(RaceSettings(seeds=[0, 1], programs=["ours", "ours-latents"]), tmp_path, [])
    plan = list(races.plan(TASKS["lora"]))
    rates = TASKS["lora"].rates
    assert [row[0] for row in plan] == 2 * len(rates) * ["grid"] + 4 * ["race"]
    assert {row[3] for row in plan[: 2 * len(rates)]} == set(rates)
    assert [(row[1], row[2]) for row in plan[-4:]] == [
        ("ours", 0), ("ours-latents", 0), ("ours-latents", 1), ("ours", 1),
    ]  # fmt: skip
    small = Races(RaceSettings(small=True, programs=["ours"]), tmp_path, [])
    assert [row[:3] for row in small.plan(TASKS["lora"])] == [("race", "ours", 0)]


def found(path, with_pairs):
    """A judge that knows the weights by their folder."""
    step = int(path.name.split("-")[1])
    return {"win_rate": {"value": step / 10}, "implicit_accuracy": {}, "winners_error": 0.0}


def test_judging_goes_on_where_it_was_stopped(tmp_path):
    run = Run("lora", "race", "ours", "1e-4", 0)
    folder = run.folder(tmp_path)
    weights = folder / "weights"
    weights.mkdir(parents=True)
    reports = [{"kind": "snapshot", "step": step, "seconds": step, "cpu": step, "setup": 1,
                "folder": str(weights / f"step-{step}")} for step in (1, 2, 3)]  # fmt: skip
    (folder / "trained.json").write_text(json.dumps([*reports, {"kind": "done"}]))
    said = judge(run, tmp_path, found)
    assert "step 1" in next(said)
    said.close()
    assert weights.exists()
    with (folder / "judged.jsonl").open("a") as file:
        file.write('{"step": 2, "win')  # stopped while it wrote
    seen = []

    def counted(path, with_pairs):
        seen.append((path.name, with_pairs))
        return found(path, with_pairs)

    assert len(list(judge(run, tmp_path, counted))) == 2
    assert seen == [("step-2", False), ("step-3", True)]
    assert not weights.exists()
    assert [one["win_rate"]["value"] for one in every_line(tmp_path)] == [0.1, 0.2, 0.3]


def test_what_is_trained_is_not_trained_again(tmp_path, monkeypatch):
    run = Run("lora", "race", "ours", "1e-4", 0)
    run.folder(tmp_path).mkdir(parents=True)
    (run.folder(tmp_path) / "trained.json").write_text("[]")
    monkeypatch.setattr(runs, "Contestant", None)
    train(run, tmp_path, None, Moments([1.0], ""), 1)


def test_figures_of_other_settings_are_not_mixed(tmp_path):
    folder = tmp_path / "race"
    assert claimed(str(folder), {"seconds": 600.0, "captions": 120}) == folder
    assert claimed(str(folder), {"seconds": 600.0, "captions": 120}) == folder
    with pytest.raises(UserError, match="holds what was measured with another captions"):
        claimed(str(folder), {"seconds": 600.0, "captions": 60})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    with pytest.raises(UserError, match="holds other files"):
        claimed(str(tmp_path / "other"), {})


@pytest.mark.slow
def test_the_command_trains_judges_and_goes_on(tmp_path):
    words = ["race", "--small", "--tasks", "lora", "--programs", "ours", "--threads", "1"]
    command = [sys.executable, str(ROOT / "scripts" / "benchmark"), *words]
    command += ["--work_dir", str(tmp_path / "race")]
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, timeout=1200)
        assert done.returncode == 0
        read = json.loads((tmp_path / "race" / "race.json").read_text())
        assert [one["step"] for one in read["rows"]] == [1, 2]
        assert 0 < read["rows"][0]["seconds"] < read["rows"][1]["seconds"]
    run = tmp_path / "race" / "lora" / "race-ours-2e-4-0"
    assert not (run / "weights").exists()
    assert (tmp_path / "race" / "race.png").read_bytes().startswith(b"\x89PNG")
