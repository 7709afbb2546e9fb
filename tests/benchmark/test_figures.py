"""The arithmetic and the tables against numbers worked out by hand."""

import json

import pytest

from scripts.benchmark.chart import step_chart
from scripts.benchmark.comparisons import COMPARISONS
from scripts.benchmark.report import Report
from scripts.benchmark.results import Result, Spread, break_even, epoch_cost, quotient, spread
from scripts.benchmark.tables import comparison_table, met, ratio, table
from scripts.benchmark.targets import (
    Target,
    faster,
    first_epoch,
    memory,
    memory_saved,
    over_bare,
    targets,
)
from tests.conftest import ROOT


def result(name, *wall, setup=1.0, cold=None, ram=1000.0, bare=(), error=None, operations=()):
    group = name.split("-")[0]
    return Result(
        name,
        group,
        list(wall),
        list(wall),
        list(bare),
        [],
        setup,
        cold,
        ram,
        None,
        dict(operations),
        error,
    )


ROWS = {
    row.name: row
    for row in (
        result("full-fp32-uncached", 3.0, 3.2, 3.1),
        result("full-fp32-latents", 2.0, 2.4, 2.0, cold=21.0, ram=900.0, bare=[1.6, 2.0, 2.0]),
        result(
            "full-fp32-scores",
            1.0,
            1.5,
            1.2,
            cold=61.0,
            ram=800.0,
            operations={"norms": 0.25, "copies": 0.75},
        ),
        result("full-fp32-salesforce", 4.0, 3.0, 4.8, ram=1600.0),
        Result("full-bf16-uncached", "full-bf16", error="no | such thing"),
    )
}
UNCACHED, LATENTS, SCORES, THEIRS, _ = ROWS.values()


def test_quotients_are_taken_within_a_repetition():
    assert quotient(THEIRS.wall, SCORES.wall) == Spread(4.0, 2.0, 4.0, best=3.0)
    assert quotient([], [1.0]) is None
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)


def test_the_build_is_what_a_first_run_takes_longer():
    assert (UNCACHED.build, LATENTS.build, SCORES.build) == (0, 20, 60)
    assert result("x", setup=2.0, cold=1.9).build == 0


def test_epochs_count_the_build_once():
    assert epoch_cost(LATENTS, 1, 10) == 20 + 10 * 2.0
    assert epoch_cost(LATENTS, 5, 10) == 20 + 50 * 2.0
    assert epoch_cost(UNCACHED, 2, 10) == pytest.approx(62)


def test_break_even():
    assert break_even(LATENTS, UNCACHED, 10) == 2  # 20 s at 11 s an epoch
    assert break_even(SCORES, UNCACHED, 10) == 4  # 60 s at 19 s an epoch
    assert break_even(SCORES, UNCACHED, 60) == 1
    assert break_even(UNCACHED, LATENTS, 10) is None or UNCACHED.step < LATENTS.step
    assert break_even(result("slower", 4.0, cold=5.0), UNCACHED, 10) is None
    assert break_even(result("free", 3.0), UNCACHED, 10) == 1
    assert break_even(ROWS["full-bf16-uncached"], UNCACHED, 10) is None


def test_break_even_is_where_the_costs_cross():
    for steps in (3, 7, 32):
        for stored in (LATENTS, SCORES):
            epoch = break_even(stored, UNCACHED, steps)
            assert epoch_cost(stored, epoch, steps) <= epoch_cost(UNCACHED, epoch, steps)
            if epoch > 1:
                assert epoch_cost(stored, epoch - 1, steps) > epoch_cost(UNCACHED, epoch - 1, steps)


def test_measures():
    assert faster("full-fp32-scores", "full-fp32-salesforce")(ROWS).median == 4.0
    assert faster("full-fp32-scores", "full-fp32-diffusers")(ROWS) is None
    assert over_bare("full-fp32-latents")(ROWS) == Spread(1.2, 1.0, 1.25, best=1.25)
    assert memory("full-fp32-scores", "full-fp32-salesforce")(ROWS).median == 0.5
    assert memory_saved("full-fp32-scores", "full-fp32-latents", 50.0)(ROWS).median == 2.0
    # 10 steps: 31 uncached, 40 with latents, 72 with scores; theirs 40
    assert first_epoch("fp32", "full-fp32-salesforce", 10)(ROWS).median == pytest.approx(40 / 31)


def test_bounds_hold_on_their_own_side():
    least, most = (
        Target("", "", 2.0, lambda rows: None),
        Target("", "", 2.0, lambda rows: None, at_most=True),
    )
    assert least.met(Spread(2.0, 0, 9))
    assert not least.met(Spread(1.9, 0, 9))
    assert most.met(Spread(2.0, 0, 9))
    assert not most.met(Spread(2.1, 0, 9))


def test_every_target_says_when_nothing_was_measured():
    assert all(target.measure({}) is None for target in targets(32, 88.0))
    assert all(
        target.measure(ROWS) is None for target in targets(32, 88.0) if "bf16" in target.work
    )


def page(rows):
    return Report({"processor": "P"}, {"repetitions": 3}, rows, 50.0, {"full": 10}, ["a note"])


def test_markdown_says_all_in_tables():
    text = page(ROWS).markdown()
    assert (
        "| full fp32, everything stored | salesforce fp32 | at least 2x | 4.0x [2.0, 4.0] |"
        " 3.0x | yes |" in text
    )
    assert (
        "| full fp32, first epoch, nothing stored | salesforce fp32 | at least 1.2x | 1.3x |"
        "  | yes |" in text
    )
    assert (
        "| full-fp32-latents | bare network | at most 1.05x | 1.20x [1.00, 1.25] | 1.25x | no |"
        in text
    )
    assert "| full-bf16-uncached | failed: no / such thing |" in text
    assert "| full-fp32-latents | 20.0 | 40 | 60 | 120 | 220 | 2 |" in text
    assert "| full-fp32-scores | 0.300 | 0.900 |" in text
    assert "* a note" in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1


def test_json_has_every_repetition_and_the_verdicts():
    read = json.loads(page(ROWS).as_json())
    rows = {row["name"]: row for row in read["rows"]}
    assert rows["full-fp32-scores"]["wall"] == [1.0, 1.5, 1.2]
    assert rows["full-bf16-uncached"]["error"] == "no | such thing"
    verdicts = {(v["work"], v["against"]): v["met"] for v in read["targets"]}
    assert verdicts["full fp32, everything stored", "salesforce fp32"] is True
    assert verdicts["full bf16, everything stored", "salesforce bf16"] is None
    even = {row["name"]: row["break_even"] for row in read["epochs"]}
    assert even == {"full-fp32-uncached": None, "full-fp32-latents": 2, "full-fp32-scores": 4,
                    "full-fp32-salesforce": None}  # fmt: skip


def test_a_report_read_back_says_the_same():
    written = page(ROWS).as_json()
    again = Report.from_json(written)
    assert again.as_json() == written
    assert again.markdown() == page(ROWS).markdown()


def test_the_kept_tables_are_those_of_the_kept_figures():
    kept = Report.from_json((ROOT / "assets" / "benchmark.json").read_text())
    assert (ROOT / "assets" / "benchmark.md").read_text() == kept.markdown()
    kept_targets = json.loads((ROOT / "assets" / "benchmark.json").read_text())["targets"]
    assert json.loads(kept.as_json())["targets"] == kept_targets


def test_like_for_like_rows_store_nothing_on_either_side():
    ours, theirs = (
        result("lora-fp32-uncached", 2.0, 2.0, 2.0),
        result("lora-fp32-diffusers", 3.0, 3.2, 3.2),
    )
    theirs.cpu = [5.0, 5.0, 5.0]
    rows = {row.name: row for row in (ours, theirs)}
    line = "| lora fp32 | lora-fp32-diffusers | 2.000 | 3.200 [3.000, 3.200] | 1.6x [1.5, 1.6] |"
    assert line + " 2.000 | 5.000 | 2.5x | 1.00 | 1.56 |" in comparison_table(rows)
    assert comparison_table({}) == "No two such rows were measured."
    stored = {"latents", "scores", "compiled", "stored"}
    assert not stored & {row.ours.split("-")[-1] for row in COMPARISONS}


def test_quotients_have_one_decimal():
    assert ratio(Spread(2.77, 1.62, 3.64)) == "2.8x [1.6, 3.6]"
    assert ratio(Spread(1.04, 1.01, 1.07), 2) == "1.04x [1.01, 1.07]"
    assert ratio(None) == "–"


def test_a_target_whose_programs_were_not_run_has_no_line():
    text = page(ROWS).markdown()
    assert "salesforce bf16" not in text.split("## Targets")[1].split("## Steps")[0]
    assert (
        "was given both"
        in Report({}, {"tuned": "all programs"}, ROWS, 1.0, {"full": 10}).markdown()
    )
    assert "ran without" in text


def test_a_target_that_the_fastest_repetitions_miss_is_not_met():
    target = Target("", "", 2.3, lambda rows: None)
    cases = {"yes": (2.4, 2.3), "by the median alone": (2.4, 2.1), "no": (2.2, 2.4)}
    for words, (median, best) in cases.items():
        measured = Spread(median, 1.0, 3.0, best)
        assert met(target, measured, {}) == words
        assert target.met(measured) is (words == "yes")


def test_a_target_is_met_where_few_programs_are_loaded():
    target = Target("", "", 2.0, faster("a-1", "a-2"), names=("a-1", "a-2"))
    few = {f"a-{n}": result(f"a-{n}", float(n)) for n in range(1, 5)}
    other = {f"b-{n}": result(f"b-{n}", 1.0) for n in range(9)}
    many = few | {"a-5": result("a-5", 1.0)}
    found = target.measure(few)
    assert met(target, found, few | other) == "yes"
    assert met(target, found, many) == "in a large group only"
    slow = Spread(1.9, 1.0, 2.0, 1.9)
    assert met(target, slow, many) == "no"
    named = {name for one in targets(32, 88.0) for name in one.names}
    assert {"lora-fp32-diffusers", "full-bf16-scores", "text-fp32-trl"} <= named
    assert all(one.names for one in targets(32, 88.0))


def test_chart_is_a_picture_even_of_nothing():
    for rows in (ROWS, {}):
        assert step_chart(rows).startswith(b"\x89PNG")


def test_table():
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
