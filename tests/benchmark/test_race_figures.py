"""From judged snapshots to seconds until a win rate, and the page of the race."""

import json
import math
import re
from pathlib import Path

import pytest

from diffdpo.metrics.intervals import clustered_mean
from scripts.benchmark.quality.figures import (
    best_rate,
    crossing,
    curves,
    figures,
    geometric,
    quotient,
    reached,
    smooth,
)
from scripts.benchmark.quality.page import by_task, chart, markdown, task_table

ROOT = Path(__file__).parents[2]


def line(win, seconds, step=1, program="ours", seed=0, rate="1e-4", stage="race", task="lora"):
    return {
        "task": task, "stage": stage, "program": program, "rate": rate, "seed": seed,
        "step": step, "seconds": seconds, "cpu": seconds, "setup": 0.5, "win_rate": {"value": win},
        "implicit_accuracy": {"value": 0.7}, "winners_error": 0.01,
    }  # fmt: skip


def climb(factor=1.0, **same):
    """A win rate that is a straight line of log2 of the seconds: .5 at 1 s and .1 more each time
    they double, which a mean with both neighbours leaves as it is."""
    return [line(0.5 + 0.1 * k, factor * 2.0**k, step=10 * (k + 1), **same) for k in range(5)]


def test_smoothing_by_hand():
    assert smooth([0.0, 3.0, 6.0, 0.0]) == pytest.approx([1.5, 3, 3, 3])


def test_the_crossing_of_a_straight_line_is_exact():
    places, values = [1, 2, 4, 8, 16], [0.5, 0.6, 0.7, 0.8, 0.9]
    assert crossing(places, values, 0.75) == pytest.approx(2**2.5)
    assert crossing(places, values, 0.4) == 1
    assert crossing(places, values, 0.99) is None


def test_seconds_and_steps_to_a_win_rate():
    runs_of = curves([*climb(), *climb(4.0, seed=1)])["ours"]
    found = reached(runs_of, 0.75, "seconds")
    assert found["seeds"] == pytest.approx({0: 2**2.5, 1: 4 * 2**2.5})
    assert found["mean"]["value"] == pytest.approx(2 * 2**2.5)
    assert found["before_the_first"] == 0
    estimate = clustered_mean([math.log(value) for value in found["seeds"].values()], [0, 1])
    assert found["mean"]["interval"] == pytest.approx(
        [math.exp(edge) for edge in estimate.as_dict()["interval"]]
    )
    late = reached(curves([*climb(), line(0.5, 1, seed=1)])["ours"], 0.75, "seconds")
    assert (late["of"], list(late["seeds"]), late["mean"]) == (2, [0], None)


def test_seconds_a_step_leave_the_start_out():
    found = figures([line(0.6, 10.5, step=21), line(0.7, 20.5, step=41)])["ours"]
    assert (found["setup"], found["step_seconds"]) == (0.5, pytest.approx(0.5))
    assert found["seeds"] == 1
    assert found["last_win_rate"] == 0.7
    assert figures([line(0.6, 10.5)])["ours"]["step_seconds"] is None


def test_the_quotient_is_paired_by_seed():
    ours = reached(curves([*climb(), *climb(2.0, seed=1)])["ours"], 0.75, "seconds")
    theirs = reached(curves([*climb(3.0), *climb(12.0, seed=1)])["ours"], 0.75, "seconds")
    found = quotient(ours, theirs)
    assert found["value"] == pytest.approx(math.sqrt(3 * 6))
    assert quotient(ours, {**theirs, "seeds": {0: 3.0}}) is None
    assert geometric({0: 2.0}) == {"value": pytest.approx(2.0), "interval": None}


def test_the_rate_with_the_best_mean_is_chosen():
    grid = [line(0.6, 1, rate="a"), line(0.9, 2, rate="a", step=2)]
    grid += [line(0.8, 1, rate="b"), line(0.8, 2, rate="b", step=2)]
    assert best_rate(curves([one | {"stage": "grid"} for one in grid], "grid")["ours"]) == "b"
    assert curves(grid, "grid") == {}


def test_the_page_and_the_picture():
    lines = [*climb(), *climb(2.0, seed=1), *climb(8.0, program="diffusers"),
             *climb(16.0, seed=1, program="diffusers"), line(0.9, 9, stage="grid")]  # fmt: skip
    text = markdown(lines, {"seconds": 600})
    assert "seconds 600" in text
    assert "## lora: LoRA of rank 8" in text
    assert "| 8.0x [8.0, 8.0] |" in text
    mean = figures(lines)["ours"]["targets"]["75%"]["seconds"]["mean"]["value"]
    assert f"| {mean:.0f} [" in text
    assert chart(lines).startswith(b"\x89PNG")
    assert "No run of the race is judged yet" in markdown([line(0.9, 9, stage="grid")], {})


@pytest.mark.parametrize("name", ["race", "race-lora"])
def test_the_page_shows_the_kept_figures(name):
    kept = by_task(json.loads((ROOT / "assets" / f"{name}.json").read_text())["rows"])
    text = (ROOT / "docs" / "speed.md").read_text()
    (block,) = re.findall(rf"<!-- {name} -->\n(.*?)<!-- end of {name} -->", text, re.DOTALL)
    assert block.strip() == "\n\n".join(task_table(figures(lines)) for lines in kept.values())
