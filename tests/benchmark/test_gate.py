"""The gate between a training program and the benchmark, with toy loops."""

import io
import json
import time

import pytest
import torch
from accelerate import Accelerator

from scripts.benchmark.gate import Channel, Gate, Schedule, Stop
from scripts.benchmark.memory import peak_memory
from scripts.benchmark.operations import REST, Operations, kind_of

SCHEDULE = Schedule(warmup=2, steps=3, repetitions=2)


def train(optimizer, steps=100, pause=0.0, cold=()):
    """A loop that knows nothing of the gate; returns how far it came. The steps in ``cold`` are
    slow."""
    for step in range(steps):
        time.sleep(0.6 if step in cold else pause)
        optimizer.step()
    return steps


def weights(size=3):
    return [torch.nn.Parameter(torch.zeros(size))]


def drive(optimizer, permissions, schedule=SCHEDULE, aside=dict, **loop):
    """Reports up to the gate's last stop, and what was left of the permissions."""
    out, into = io.StringIO(), io.StringIO("go\n" * permissions)
    with pytest.raises(Stop), Gate(schedule, Channel(out, into), aside) as gate:
        train(optimizer, **loop)
    return [json.loads(line) for line in out.getvalue().splitlines()], gate.done, into.read()


def test_stops_after_the_warm_up_and_after_every_repetition():
    reports, done, left = drive(torch.optim.SGD(weights()), permissions=2)
    assert [report["kind"] for report in reports] == ["warm", "repetition", "repetition"]
    assert done == SCHEDULE.total + 1 == 11  # the last is profiled
    assert left == ""
    assert ["operations" in report for report in reports] == [False, False, True]


def test_first_step_only():
    reports, done, _ = drive(
        torch.optim.SGD(weights()), 0, Schedule(warmup=1, steps=1, repetitions=0), pause=0.02
    )
    assert [report["kind"] for report in reports] == ["warm"]
    assert done == 1
    assert reports[0]["setup"] >= 0.02


def test_stops_where_nobody_listens_any_more():
    reports, done, _ = drive(torch.optim.SGD(weights()), permissions=1)
    assert len(reports) == 2
    assert done == 6


def test_times_the_steps_and_nothing_beside_them():
    def aside():
        time.sleep(0.2)
        return {"bare_wall": 7.0}

    reports, _, _ = drive(torch.optim.SGD(weights()), permissions=2, aside=aside, pause=0.02)
    for report in reports[1:]:
        assert 0.02 <= report["wall"] < 0.06
        assert report["cpu"] < report["wall"]
        assert report["bare_wall"] == 7.0
        assert report["ram"] > 50


def test_the_first_step_of_a_turn_is_not_counted():
    reports, _, _ = drive(torch.optim.SGD(weights()), permissions=2, cold=(2, 6))
    assert all(report["wall"] < 0.15 for report in reports[1:])


def test_operations_are_told_apart_and_add_up():
    x = torch.randn(64, 64)
    operations = Operations()
    operations.start()
    for _ in range(20):
        x @ x
    torch.nn.functional.conv2d(x[None, None], torch.ones(1, 1, 3, 3))
    shares = operations.stop()
    assert sum(shares.values()) == pytest.approx(1)
    assert min(shares["matrix products"], shares["convolutions"]) > 0
    assert shares["optimizer"] == shares["norms"] == 0
    operations.start()
    assert operations.stop() == {}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "attention"),
        ("aten::mkldnn_convolution", "convolutions"),
        ("aten::convolution_backward", "convolutions"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::mm", "matrix products"),
        ("aten::mul", REST),
        ("aten::native_group_norm_backward", "norms"),
        ("aten::copy_", "copies"),
    ],
)
def test_kinds(name, kind):
    assert kind_of(name) == kind


def test_an_optimizer_under_accelerate_counts_once_a_step():
    optimizer = Accelerator(cpu=True).prepare(torch.optim.AdamW(weights()))
    _, done, _ = drive(optimizer, permissions=2)
    assert done == 11


def test_no_handler_of_the_program_holds_it_up():
    optimizer = torch.optim.SGD(weights())

    def stubborn():
        while True:
            try:
                optimizer.step()
            except Exception:
                continue

    out = io.StringIO()
    with pytest.raises(Stop), Gate(SCHEDULE, Channel(out, io.StringIO("go\n" * 2)), dict):
        stubborn()


def test_is_gone_when_the_block_ends():
    out = io.StringIO()
    with Gate(SCHEDULE, Channel(out, io.StringIO()), dict) as gate:
        pass
    train(torch.optim.SGD(weights()))
    assert gate.done == 0


def test_peak_memory_grows_with_what_is_held_and_stays():
    before = peak_memory()["ram"]
    held = torch.ones(int(before + 64) << 20, dtype=torch.uint8)
    with_it = peak_memory()["ram"]
    del held
    assert with_it >= before + 64
    assert peak_memory()["ram"] == pytest.approx(
        with_it, rel=0.01
    )  # the kernel's counters are not exact
