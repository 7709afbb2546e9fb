"""Wins by judges that look at two pictures at once, beside wins by scores."""

import numpy as np

from diffdpo.engine.labels import REFERENCE
from diffdpo.evaluation.scores import Scores
from diffdpo.metrics.judged import faced
from diffdpo.metrics.reward import Reward
from tests.factory import picture

PROMPTS = list("aabbccddee")
POINTS = {label: {"judge": np.full(10, 5.0), "size": np.arange(10.0) * way}
          for label, way in ((REFERENCE, 0), ("a", 1), ("b", -1))}  # fmt: skip
A, B, BOTH = np.array([1.0] * 8 + [0.5, 0.0]), np.zeros(10), np.full(10, 0.5)
FACED = {("judge", "a", REFERENCE): A, ("judge", "b", REFERENCE): B, ("judge", "b", "a"): BOTH}


def test_what_a_judge_saw_side_by_side_decides_and_scores_do_elsewhere():
    scores = Scores(PROMPTS, POINTS, {}, 0, FACED)
    assert scores.row("a", "judge")["win_rate"].value == 0.85  # by points all would tie
    assert scores.row("a", "judge")["ties"] == 1
    assert scores.row("b", "judge")["win_rate"].value == 0
    assert scores.wins(REFERENCE, "a", "judge").tolist() == (1 - A).tolist()
    assert [row["win_rate"].value for row in scores.duels("judge")] == [0.85, 0, 0.5]
    assert scores.differences("judge")[0]["difference"].value == -0.85
    assert scores.row("a", "size")["win_rate"].value == 0.95
    assert scores.row("b", "size")["win_rate"].value == 0.05


def test_pairs_are_shown_in_batches_in_their_order():
    shown = []

    def versus(first, second, prompts):
        shown.append(len(prompts))
        return np.array(
            [float(one.width > other.width) for one, other in zip(first, second, strict=True)]
        )

    reward = Reward("both", lambda pictures, prompts: np.zeros(len(prompts)), {}, versus=versus)
    wide, narrow = picture(0, (8, 4)), picture(1, (4, 4))
    wins = faced(reward, [wide, narrow, wide], [narrow, wide, narrow], list("abc"), 2)
    assert (wins.tolist(), shown) == ([1, 0, 1], [2, 1])
    assert faced(reward, [], [], [], 2).shape == (0,)
