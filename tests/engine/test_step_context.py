"""What a step knows of its whole effective batch, whatever the modality and however it is cut."""

from dataclasses import dataclass

import pytest
import torch

from diffdpo.engine.step_context import Scorers, step_context
from diffdpo.objective.scores import Scores
from diffdpo.objective.terms import Objective, Term
from diffdpo.reference import StoredScores, Zero


@dataclass
class Given:
    """A draw with its scores written down."""

    policy_N: torch.Tensor
    reference_N: torch.Tensor


class Task:
    """Takes scores from the draw and token counts from the batch."""

    def score(self, model, draw):
        return Scores(draw.policy_N)

    def reference_point_draws(self, batches):
        return batches

    def token_counts(self, batch):
        return batch


def stored():
    return StoredScores(Zero())


def given(*rewards):
    reward_N = torch.tensor(rewards)
    return Given(reward_N - 5.0, torch.full_like(reward_N, -5.0))


def scorers(task=None, total=lambda value: value, **processes):
    return Scorers(task or Task(), torch.nn.Identity(), stored(), total, **processes)


def test_the_reference_point_is_the_mean_reward_over_all_batches():
    batches = [given(1.0, 2.0, 6.0), given(3.0)]
    assert scorers().reference_point(batches).item() == pytest.approx(3.0)


def test_the_reference_point_is_never_negative():
    assert scorers().reference_point([given(-1.0, -3.0)]).item() == 0


def test_the_reference_point_counts_all_processes():
    def with_another_process(total):
        return total + torch.tensor([10.0, 1.0])  # one item there, with reward 10

    batches = [given(1.0, 1.0, 0.0)]
    z = scorers(total=with_another_process).reference_point(batches)
    assert z.item() == pytest.approx(12 / 4)


def test_pairs_of_all_micro_batches_and_processes_stand_in_their_places():
    class Drawn(Task):
        def draw(self, batch):
            return batch

    batches = [given(1.0, 2.0, -1.0, -2.0), given(3.0, -3.0)]  # two pairs, and one

    def with_the_process_before(places):
        assert places.shape == (2, 2, 2, 3)  # processes; scores and rewards; sides; pairs
        assert not places[0].any()
        places[0] = 7.0
        return places

    objective = Objective((Term("aot"),))
    second = scorers(Drawn(), with_the_process_before, processes=2, rank=1)
    context = step_context(objective, second, batches)
    sevens = [7.0, 7.0, 7.0]
    assert context.share == 1 / 4
    assert context.pairs.reward_2P.tolist() == [[*sevens, 1, 2, 3], [*sevens, -1, -2, -3]]
    assert context.pairs.score_2P.tolist() == [[*sevens, -4, -3, -2], [*sevens, -6, -7, -8]]
    assert context.pairs.starts == (3, 5)
    alone = step_context(objective, scorers(Drawn()), batches[:1])
    assert alone.pairs is None  # the micro-batch has all of them


@pytest.mark.parametrize("loss", ["kto", "sigmoid", "sft", "orpo"])
def test_only_what_a_loss_reads_is_computed(loss):
    class Counting(Task):
        calls = ""

        def reference_point_draws(self, batches):
            self.calls += "z"
            return [given(2.0)]

        def token_counts(self, batch):
            self.calls += "t"
            return batch

    task = Counting()
    batches = [(6, 2, 4, 2), (3, 1, 0, 1)]
    context = step_context(Objective((Term(loss),)), scorers(task, processes=2), batches)
    assert context.share == 1 / 4
    assert task.calls == {"kto": "z", "sigmoid": "", "sft": "tt", "orpo": "tt"}[loss]
    if loss == "kto":
        assert float(context.reference_point) == 2
    if loss in ("sft", "orpo"):
        means = context.chosen_tokens, context.rejected_tokens, context.prompt_tokens
        assert [float(value) for value in means] == pytest.approx([3.0, 1.0, 4 / 3])
