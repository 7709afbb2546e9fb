"""Which step was the best, and when it is no use to go on."""

import math
from types import SimpleNamespace

import pytest

from diffdpo.engine.watch.evals import FILE, Evals, Several, Wish, best_of


class One:
    """One process, as accelerate shows it."""

    is_main_process, logged = True, ()

    def wait_for_everyone(self):
        pass

    def log(self, values, step):
        assert all(isinstance(value, (int, float)) for value in values.values())
        self.logged = (*self.logged, step)


def evals(folder, patience=None, metric="loss", keep=True):
    settings = SimpleNamespace(
        output_dir=str(folder),
        keep_best=keep,
        early_stopping_patience=patience,
        metric_for_best_model=metric,
    )
    return Evals(settings, One(), lambda line: None)


@pytest.mark.parametrize(
    ("name", "values", "best"),
    [
        ("eval_loss", [3.0, 1.0, 2.0, 1.0], 2),
        ("eval_rewards/accuracies", [0.5, 0.9, 0.8, 0.9], 2),
        ("eval_loss", [math.nan, 2.0], 2),
        ("eval_loss", [math.nan], None),
        ("eval_loss", [], None),
    ],
)
def test_the_earliest_of_the_best(name, values, best):
    lines = [{"step": step, name: value} for step, value in enumerate(values, start=1)]
    assert best_of(lines, name) == best
    assert best_of(lines[::-1], name) == best


def test_a_better_step_is_saved_and_patience_ends_the_run(tmp_path):
    found = evals(tmp_path, patience=2)
    assert found.begin(0) == Wish()
    losses = [0.9, 0.8, 0.85, 0.7, 0.7, 0.71]
    wishes = [found.add(step, {"eval_loss": loss}) for step, loss in enumerate(losses, start=1)]
    assert [wish.save for wish in wishes] == [True, True, False, True, False, True]
    assert [wish.end for wish in wishes] == [False] * 5 + [True]
    assert found.best() == 4
    assert found.best([1, 2]) == 2


def test_a_resumed_run_knows_what_was_measured_up_to_its_step(tmp_path):
    first = evals(tmp_path, patience=2)
    first.begin(0)
    for step, loss in enumerate([0.9, 0.8, 0.85, 0.86], start=1):
        first.add(step, {"eval_loss": loss})
    again = evals(tmp_path, patience=2)
    assert again.begin(4) == Wish(end=True)
    assert again.lines == first.lines
    again = evals(tmp_path, patience=2)
    assert again.begin(3) == Wish()
    assert len((tmp_path / FILE).read_text().splitlines()) == 3
    assert again.add(4, {"eval_loss": 0.1}) == Wish(save=True)


def test_without_keep_best_a_measurement_asks_for_nothing(tmp_path):
    found = evals(tmp_path, keep=False)
    found.begin(0)
    assert found.add(1, {"eval_loss": 0.5, "eval_list": [1]}) == Wish()
    assert found.accelerator.logged == (1,)


def test_several_measures_are_called_when_each_is_due():
    def made(every, figures, calls):
        return SimpleNamespace(
            due=lambda done: done % every == 0,
            measure=lambda done: calls.append(done) or figures,
            final=lambda done: calls.append(-done),
        )

    one, two = [], []
    both = Several([made(2, {"x": 1}, one), made(3, None, two)])
    assert [step for step in range(1, 7) if both.due(step)] == [2, 3, 4, 6]
    assert [both.measure(step) for step in (2, 3, 6)] == [{"x": 1}, None, {"x": 1}]
    both.final(6)
    assert (one, two) == ([2, 6, -6], [3, 6, -6])
