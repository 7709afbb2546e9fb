"""Stored scores of another reference are an error; rounding is said."""

import pytest
import torch

from diffdpo.engine.settings import TrainSettings
from diffdpo.engine.start_check import check_live, check_stored
from diffdpo.errors import UserError

SCORE_N = torch.tensor([-100.0, -80.0])


@pytest.mark.parametrize(
    ("precision", "rounding", "error"),
    [("no", 1e-3, 0.1), ("bf16", 0.5, 5.0), ("fp16", 0.2, 2.0)],
)
def test_beyond_rounding_stored_scores_are_refused(precision, rounding, error):
    lines = []
    settings = TrainSettings(mixed_precision=precision, precompute_dir="tables")
    check_stored(torch.tensor([0.0, -rounding]), SCORE_N, 0.1, settings, lines.append)
    assert f"differ by at most {2 * 0.1 * rounding:.3g} in the first batch" in lines[0]
    with pytest.raises(UserError, match="--precompute_dir tables: stored reference scores differ"):
        check_stored(torch.tensor([0.0, -error]), SCORE_N, 0.1, settings, lines.append)


def test_a_stored_score_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="stored reference scores"):
        check_stored(torch.tensor([float("nan")]), SCORE_N[:1], 1.0, TrainSettings(), print)


def test_tf32_rounds_more_than_float32():
    reward_N = torch.tensor([0.1, 0.0])
    check_stored(reward_N, SCORE_N, 1.0, TrainSettings(allow_tf32=True), lambda line: None)


def test_a_live_reference_that_differs_is_warned_of():
    lines = []
    check_live(torch.zeros(4), 5000.0, False, lines.append)
    assert lines == []
    check_live(torch.tensor([0.0, 1e-4]), 5000.0, False, lines.append)
    check_live(torch.tensor([0.0, 1e-4]), 5000.0, True, lines.append)
    assert lines[0].startswith("WARNING: policy and reference differ")
    assert lines[1].startswith("compiled")
