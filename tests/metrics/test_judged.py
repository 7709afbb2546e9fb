"""Rewards of one's own give one finite number an item, or an error that names the item."""

import numpy as np
import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.metrics.judged import judged

NAMES = ["text 0", "text 1", "text 2"]
TEXTS = ["a", "bb", "ccc"]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor, lambda x: np.float16(x)])
def test_numbers_of_any_kind_are_taken(kind):
    scores = judged("mine", lambda texts: kind([len(text) for text in texts]), NAMES, TEXTS)
    assert scores.dtype == np.float64
    assert scores.tolist() == [1, 2, 3]


def no_b(texts):
    if "bb" in texts:
        raise RuntimeError("no b, please")
    return [0.0] * len(texts)


def never(texts):
    raise MemoryError


WRONG = {
    "NaN": (lambda t: [0, np.nan, np.inf], "2 of 3 scores are not finite, the first is nan for te"),
    "infinite": (lambda t: [0, 1, -np.inf], "1 of 3 scores are not finite, the first is -inf for"),
    "a column": (lambda t: np.zeros((3, 1)), r"numbers of shape \(3, 1\) for 3 items"),
    "too few": (lambda t: [1.0], r"numbers of shape \(1,\) for 3 items"),
    "None": (lambda t: None, r"numbers of shape \(\)|no array of numbers"),
    "words": (lambda t: t, "gives list that is no array of numbers"),
    "with gradient": (lambda t: torch.zeros(3, requires_grad=True), "no array of numbers"),
    "fails on one": (no_b, "fails with RuntimeError: no b, please for text 1$"),
    "fails on all": (never, r"MemoryError\(\) for text 0$"),
    "no such argument": (lambda: [1.0], "fails with TypeError.*for text 0"),
    "fails together": (lambda t: [1.0] if len(t) == 1 else 1 / 0, "division by zero$"),
}


@pytest.mark.parametrize("case", WRONG)
def test_anything_else_is_an_error_that_names_the_item(case):
    reward, line = WRONG[case]
    with pytest.raises(UserError, match=f"--reward mine: .*{line}"):
        judged("mine", reward, NAMES, TEXTS)


def test_a_mistake_of_the_user_keeps_its_own_line():
    def reward(texts):
        raise UserError("install this")

    with pytest.raises(UserError, match=r"^install this$"):
        judged("mine", reward, NAMES, TEXTS)
