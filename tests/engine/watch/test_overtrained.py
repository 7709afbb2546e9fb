"""From which step on a run only paid."""

import pytest

from diffdpo.engine.watch.overtrained import overtrained_from, verdict
from diffdpo.report.page import held_out_note
from diffdpo.report.plots import held_out_curves

WORSE = {"since_best/error_interval": [0.01, 0.02], "since_best/accuracy_interval": [-0.1, 0.1]}
DEAR = {"since_best/error_interval": [0.01, 0.02], "since_best/accuracy_interval": [0.02, 0.1]}
EVEN = {"since_best/error_interval": [-0.01, 0.02], "since_best/accuracy_interval": [-0.1, 0.1]}
ALONE = {"since_best/error_interval": [None, None], "since_best/accuracy_interval": [None, None]}


def lines(*parts):
    """Of a run whose second measurement is the best: what each of the others is beside it."""
    found = [{"step": 10, "eval_loss": 0.9}, {"step": 20, "eval_loss": 0.5, "best_step": 10}]
    for number, part in enumerate(parts):
        found.append({
            "step": 30 + 10 * number, "eval_loss": 0.6, "best_step": 20,
            "since_best/error": 0.015, "since_best/accuracy": -0.01, **part,
        })  # fmt: skip
    return found


@pytest.mark.parametrize(
    ("parts", "step"),
    [
        ([], None),
        ([EVEN], None),
        ([DEAR], None),
        ([ALONE], None),
        ([WORSE], 30),
        ([EVEN, WORSE, WORSE], 40),
        ([WORSE, EVEN, WORSE], 50),
        ([WORSE, WORSE, DEAR], None),
    ],
)
def test_only_the_end_of_a_run_can_be_over_trained(parts, step):
    assert overtrained_from(lines(*parts), "eval_loss") == step


def test_what_was_worse_than_a_step_that_was_no_longer_the_best_says_nothing():
    found = [*lines(WORSE), {"step": 40, "eval_loss": 0.1, "best_step": 20, **WORSE}]
    assert overtrained_from(found, "eval_loss") is None


def test_the_report_says_so_and_draws_it():
    found = lines(WORSE, WORSE)
    (line,) = verdict(found, "eval_loss")
    assert line.startswith("over-trained from step 30: since step 20")
    note = held_out_note(found, "eval_loss")
    assert "the best by eval_loss is that of step 20" in note
    assert "Over-trained from step 30" in note
    found[0] |= {"eval_rewards/accuracies": 0.5, "eval_accuracy_interval": [0.4, 0.6]}
    assert held_out_curves(found).startswith(b"\x89PNG")
