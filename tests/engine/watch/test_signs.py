"""Signs of trouble in the metrics of a run: what raises an alarm, and what must not."""

import math

import numpy as np
import pytest
from scipy import stats

from diffdpo.engine.watch.signs import T_975, WINDOW, is_saturated, spike, winner_drift
from diffdpo.engine.watch.watch import Watch


def record(step=1, loss=0.7, grad_norm=1.0, accuracy=0.5, policy=0.5, reference=0.5, **more):
    return {
        "step": step,
        "loss": loss,
        "grad_norm": grad_norm,
        "rewards/accuracies": accuracy,
        "error/policy_chosen": policy,
        "error/reference_chosen": reference,
        **more,
    }


def watched(records, on_drift="warn", share=0.05):
    lines = []
    watch = Watch(lines.append, on_drift, share)
    for one in records:
        watch.judge(one)
    return watch, lines


def test_the_interval_is_students():
    random = np.random.default_rng(0)
    reference = random.uniform(0.4, 0.6, WINDOW)
    policy = reference + random.normal(0.03, 0.02, WINDOW)
    window = [record(policy=p, reference=r) for p, r in zip(policy, reference, strict=True)]
    drift = winner_drift(window)
    rise = policy - reference
    low, high = stats.t.interval(0.95, WINDOW - 1, rise.mean(), stats.sem(rise))
    level = reference.mean()
    found = (drift.mean, drift.low, drift.high)
    assert found == pytest.approx((rise.mean() / level, low / level, high / level), rel=1e-4)
    assert pytest.approx(stats.t.ppf(0.975, WINDOW - 1), rel=1e-4) == T_975


def test_no_drift_of_a_window_that_is_not_full_or_has_no_errors():
    assert winner_drift([record()] * (WINDOW - 1)) is None
    assert winner_drift([{"step": 1, "loss": 1.0, "grad_norm": 1.0}] * WINDOW) is None
    assert winner_drift([record()] * WINDOW).mean == 0


def test_drift_is_told_once_when_the_whole_interval_is_beyond_the_share():
    quiet = [record(step, policy=0.5 * 1.04) for step in range(1, 41)]
    _, lines = watched(quiet)
    assert lines == []
    loud = quiet + [record(step, policy=0.5 * 1.2) for step in range(41, 101)]
    watch, lines = watched(loud)
    assert len(lines) == 1
    step, drift = watch.drifted
    assert lines[0].startswith(f"drift        step {step}: ")
    assert 41 < step < 61  # once enough of the window has it
    assert drift.low > 0.05
    assert loud[step - 1]["drift/winner_low"] == drift.low
    assert loud[step - 2]["drift/winner_low"] <= 0.05


def test_noise_about_zero_is_no_drift():
    random = np.random.default_rng(1)
    records = [record(step, policy=0.5 + random.normal(0, 0.05)) for step in range(1, 500)]
    watch, lines = watched(records)
    assert (watch.drifted, lines) == (None, [])
    assert "drift/winner" in records[-1]
    assert "drift/winner" not in records[WINDOW - 2]


def test_saturation_needs_both_signs():
    first = [record()] * WINDOW
    sure, flat = {"accuracy": 1.0}, {"grad_norm": 0.01}
    assert is_saturated([record(**sure, **flat)] * WINDOW, first)
    assert not is_saturated([record(**sure)] * WINDOW, first)
    assert not is_saturated([record(**flat)] * WINDOW, first)
    assert not is_saturated([record(**sure, **flat)] * (WINDOW - 1), first)


def test_a_spike_stands_out_from_the_window_and_from_the_beginning():
    random = np.random.default_rng(2)
    usual = [record(loss=0.7 + random.normal(0, 0.05)) for _ in range(WINDOW)]
    assert spike(record(loss=5.0), usual, usual).name == "loss"
    assert spike(record(grad_norm=50.0), usual, usual).name == "grad_norm"
    assert spike(record(loss=1.0), usual, usual) is None
    # A policy that is sure has losses of almost 0: one of 0.5 is a thousand deviations off.
    small = [record(loss=1e-4 * (1 + random.random())) for _ in range(WINDOW)]
    assert spike(record(loss=0.5), small, usual) is None
    assert spike(record(loss=9.0), small, usual) is not None


def test_steps_that_were_not_taken_are_no_part_of_the_window():
    records = [record(step) for step in range(1, WINDOW + 1)]
    bad = record(WINDOW + 1, loss=math.nan, policy=math.inf)
    watch, lines = watched([*records, bad])
    assert len(watch.window) == WINDOW
    assert bad["drift/winner"] == 0
    assert lines == []


def test_a_run_that_goes_on_sees_what_it_would_have_seen():
    random = np.random.default_rng(3)

    def records():
        return [
            record(
                step,
                loss=10.0 if step in (50, 90) else 0.7,
                policy=0.5 + 0.001 * step + random.normal(0, 0.01),
            )
            for step in range(1, 101)
        ]

    straight = records()
    _, lines = watched(straight)
    assert {line.split()[0] for line in lines} == {"drift", "spike"}
    for cut in (5, 30, 60, 99):
        bare = [{k: v for k, v in one.items() if "drift" not in k} for one in straight]
        told = []
        watch = Watch(told.append, "warn", 0.05)
        watch.begin([dict(one) for one in straight[:cut]])
        for one in bare[cut:]:
            watch.judge(one)
        assert bare[cut:] == straight[cut:]
        assert told == [line for line in lines if int(line.split()[2][:-1]) > cut]
