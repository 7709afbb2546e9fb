"""LD-DPO's weights of tails and WPO's of pairs: by hand, and through the real command line."""

import pytest
import torch

from tests.factory import read_jsonl
from tests.text.engine import OneStep
from tests.text.factory import model, pair_rows, write_jsonl
from tests.text.runs import flags, metrics, train
from tests.text.test_runs import close
from tests.text.test_task import items_of

from diffdpo.text.scoring.weighting import tail_weights  # isort: skip


@pytest.fixture(scope="module")
def items():
    return items_of(pair_rows(5))


def by_position(network, prompt, completion):
    """Log-probabilities of every word, position by position, in double precision."""
    ids = torch.tensor([[*prompt, *completion]])
    table = network(ids).logits[0].double().log_softmax(-1)
    return table[len(prompt) - 1 : -1], torch.tensor(completion)


def test_tails_begin_where_the_shorter_completion_ends():
    found = tail_weights([3, 2, 1, 2, 4], completions=4, alpha=0.25)  # pairs (3, 1), (2, 2); prompt
    assert found.tolist() == [1, 0.25, 0.25, 1, 1, 1, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_scores_of_both_networks_weigh_the_tail(items, alpha):
    one = OneStep(model(0), model(1))
    one.task.ld_alpha = alpha
    found = one.scores(one.task.draw(one.task.collate(items)))
    for network, scores in zip((one.policy.network, one.reference.network), found, strict=True):
        expected = []
        for side in (0, 1):
            for item in items:
                table, ids = by_position(network, item.prompt, item.completions[side])
                logp, shared = table.gather(1, ids[:, None])[:, 0], min(map(len, item.completions))
                expected.append(logp[:shared].sum() + alpha * logp[shared:].sum())
        torch.testing.assert_close(scores.double(), torch.stack(expected), rtol=1e-6, atol=0)
    assert any(len(set(map(len, item.completions))) == 2 for item in items)  # tails there are


def test_weights_of_pairs_are_those_of_the_policy_and_have_no_gradient(items):
    one = OneStep(model(0), model(1))
    one.task.weighs = True
    draw = one.task.draw(one.task.collate(items))
    scores = one.task.score(one.policy, draw)
    expected = []
    for side in (0, 1):
        for item in items:
            table, ids = by_position(one.policy.network, item.prompt, item.completions[side])
            aligned = table.gather(1, ids[:, None])[:, 0] - (2 * table).exp().sum(1).log()
            expected.append(aligned.mean().exp())
    assert not scores.weight_N.requires_grad
    torch.testing.assert_close(scores.weight_N.double(), torch.stack(expected), rtol=1e-5, atol=0)
    with torch.no_grad():  # as held-out rows are measured
        assert torch.equal(one.task.score(one.policy, draw).weight_N, scores.weight_N)


def test_stored_scores_are_those_of_their_own_tail(lm, data, tmp_path):
    stored = {"precompute_ref_log_probs": True, "reference_cache_dir": tmp_path / "cache"}
    train(*flags(lm, data["pairs"], tmp_path / "live", ld_alpha=0.2))
    train(*flags(lm, data["pairs"], tmp_path / "plain", **stored))
    train(*flags(lm, data["pairs"], tmp_path / "stored", ld_alpha=0.2, **stored))
    assert len(list((tmp_path / "cache").glob("reference-*"))) == 2
    for a, b in zip(metrics(tmp_path / "live"), metrics(tmp_path / "stored"), strict=True):
        assert close(a, b)
    plain, live = (metrics(tmp_path / name)[0]["logps/rejected"] for name in ("plain", "live"))
    assert plain < live


def test_weights_hold_for_rows_that_are_measured(lm, data, tmp_path):
    held = write_jsonl(tmp_path / "test.jsonl", pair_rows(20)[13:])
    changes = {"use_weighting": True, "eval_dataset_name": held, "max_new_tokens": 3}
    changes |= {"max_train_steps": 1, "learning_rate": 0, "eval_strategy": "epoch"}
    train(*flags(lm, data["pairs"], tmp_path / "run", **changes))
    (line,) = read_jsonl(tmp_path / "run" / "eval.jsonl")
    # Every margin is 0: ln 2 times the mean weight of a pair.
    assert 0 < line["eval_loss"] < 0.5 * 0.693
    assert line["eval_rewards/margins"] == 0


def test_cuts_of_the_effective_batch_log_the_same_weighted_losses(lm, data, tmp_path):
    changes = {"use_weighting": True, "ld_alpha": 0.5}
    train(*flags(lm, data["pairs"], tmp_path / "whole", **changes))
    cut = {"train_batch_size": 1, "gradient_accumulation_steps": 4}
    train(*flags(lm, data["pairs"], tmp_path / "cut", **changes, **cut))
    for a, b in zip(metrics(tmp_path / "whole"), metrics(tmp_path / "cut"), strict=True):
        assert close(a, b)
