"""Scores of text: the naive log-probabilities, whatever the padding, the chunk or the company in
the batch."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from diffdpo.errors import UserError
from diffdpo.reference import without_dropout
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.scoring.scorer import TokenScorer, prove_head
from diffdpo.text.tokens.row_reader import RowSettings, TextItem
from tests.text.engine import OneStep
from tests.text.factory import CHATML, chat_rows, label_rows, model, pair_rows, tokenizer


def items_of(records, **settings):
    return TextRows(Dataset.from_list(records), tokenizer(CHATML), RowSettings(**settings)).items


@pytest.fixture(scope="module")
def items():
    return items_of(pair_rows(5))


@pytest.fixture
def one():
    return OneStep(model(0), model(1))


def naive(network, prompt, completion):
    """One sequence without padding, the full softmax in double precision."""
    ids = torch.tensor([[*prompt, *completion]])
    logp = network(ids).logits[0].double().log_softmax(-1)
    first = max(1, len(prompt))
    return sum(logp[index - 1, ids[0, index]] for index in range(first, ids.shape[1]))


def test_scores_are_sums_of_the_naive_log_probabilities(one, items):
    policy_N, _ = one.scores(one.task.draw(one.task.collate(items)))
    assert policy_N.dtype == torch.float32
    expected = [
        naive(one.policy.network, i.prompt, i.completions[side]) for side in (0, 1) for i in items
    ]
    assert torch.allclose(policy_N.double(), torch.stack(expected), rtol=1e-6)


def test_the_company_in_a_batch_changes_nothing(one, items):
    together = one.scores(one.task.draw(one.task.collate(items)))[0].chunk(2)
    for index, item in enumerate(items):
        alone = one.scores(one.task.draw(one.task.collate([item])))[0]
        assert torch.allclose(alone, torch.stack([side[index] for side in together]), rtol=1e-6)


def test_chunks_change_neither_value_nor_gradient(one, items):
    draw = one.task.draw(one.task.collate(items))

    def run(at_once):
        one.policy.zero_grad()
        one.policy.at_once = at_once
        score = one.task.score(one.policy, draw).score_N
        score.sum().backward()
        return score.detach(), [w.grad.clone() for w in one.policy.parameters()]

    whole, by_row = run(1 << 26), run(3 * 271)  # the second cuts after every three positions
    assert torch.allclose(whole[0], by_row[0], rtol=1e-6)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(whole[1], by_row[1], strict=True))


def test_only_scored_positions_reach_the_output_head(one, items):
    seen = []
    one.policy.network.lm_head.register_forward_hook(
        lambda module, inputs, output: seen.append(len(output))
    )
    draw = one.task.draw(one.task.collate(items))
    one.task.score(one.policy, draw)
    assert seen == [sum(len(ids) for item in items for ids in item.completions)]


def test_prompts_of_the_winners_are_scored_where_asked(items):
    one = OneStep(model(0), model(1), score_prompts=True)
    scores = one.task.score(one.policy, one.task.draw(one.task.collate(items)))
    assert (len(scores.score_N), len(scores.prompt_B)) == (10, 5)
    expected = [naive(one.policy.network, [], item.prompt) for item in items]
    assert torch.allclose(scores.prompt_B.double(), torch.stack(expected), rtol=1e-6)


def test_an_empty_prompt_leaves_the_first_token_out_of_sum_and_count(one):
    item = TextItem(0, [], ([30, 31, 32], [33, 34]))
    draw = one.task.draw(one.task.collate([item]))
    assert draw.sizes == [2, 1]
    assert one.scores(draw)[0][0].item() == pytest.approx(
        naive(one.policy.network, [], [30, 31, 32]).item(), rel=1e-6
    )


def test_orpo_stays_finite_for_certain_and_for_empty_completions(one):
    """The completion [1] with an empty prompt has no scored token; a huge head makes the others
    certain."""
    with torch.no_grad():
        one.policy.network.lm_head.weight.mul_(200)
    # The token that the model is certain of after the prompt, whichever that is.
    draw = one.task.draw(one.task.collate([TextItem(0, [40, 41], ([42], [43]))]))
    with torch.no_grad():
        best = (
            one.policy.logits(
                one.policy.network.base_model(draw.token_S[None, :2]).last_hidden_state
            )[0, 1]
            .argmax()
            .item()
        )
    certain = TextItem(0, [40, 41], ([best], [43]))
    for item in (certain, TextItem(0, [], ([1], [43, 44]))):
        one.policy.zero_grad()
        loss, _ = one.run([item], loss_type=["orpo"])
        loss.backward()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(w.grad).all() for w in one.policy.parameters())


def test_the_reference_point_pairs_every_prompt_with_another_rows_completion(one):
    items = items_of(label_rows(4), paired=False)
    whole = list(one.task.reference_point_draws([one.task.collate(items)]))
    assert len(whole) == 1
    expected = [
        naive(one.policy.network, item.prompt, items[index - 1].completions[0])
        for index, item in enumerate(items)
    ]
    assert torch.allclose(one.scores(whole[0])[0].double(), torch.stack(expected), rtol=1e-6)
    draws = list(one.task.reference_point_draws([one.task.collate([item]) for item in items]))
    apart = torch.cat([one.scores(draw)[0] for draw in draws])
    assert torch.allclose(apart, one.scores(whole[0])[0], rtol=1e-6)


def test_the_reference_point_carries_no_gradient_and_is_never_negative():
    items = items_of(label_rows(6), paired=False)
    for seeds in ((0, 1), (1, 0)):
        one = OneStep(*(model(seed) for seed in seeds))
        loss, metrics = one.run(items, loss_type=["kto"])
        assert loss.requires_grad
        assert not metrics["kl"].requires_grad
        assert metrics["kl"].item() >= 0
    # With the models exchanged the mean reward is negative, so exactly 0 shows the clamp.
    assert metrics["kl"].item() == 0


def test_soft_labels_mix_the_loss_with_its_mirror(one, items):
    soft = [replace(item, outcome=0.7) for item in items]
    mixed, _ = one.run(soft)
    kept, _ = one.run(items)
    mirrored, _ = one.run([replace(item, completions=item.completions[::-1]) for item in items])
    assert mixed.item() == pytest.approx(0.7 * kept.item() + 0.3 * mirrored.item(), rel=1e-6)


def test_sigmoid_with_label_smoothing_is_cdpo(one, items):
    smoothed, _ = one.run(items, label_smoothing=0.3)
    soft, _ = one.run([replace(item, outcome=0.7) for item in items])
    assert smoothed.item() == pytest.approx(soft.item(), rel=1e-6)


def gemma():
    torch.manual_seed(0)
    small = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = Gemma2Config(
        vocab_size=271, num_key_value_heads=1, head_dim=8, final_logit_softcapping=0.5, **small
    )
    return Gemma2ForCausalLM(config)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=271, n_embd=16, n_layer=1, n_head=2, n_positions=128)
    )


@pytest.mark.parametrize("make", [gemma, gpt2])
def test_other_architectures_score_as_they_speak(make, items):
    one = OneStep(make(), make())
    without_dropout(one.policy)
    prove_head(one.policy, "x")
    policy_N, _ = one.scores(one.task.draw(one.task.collate(items)))
    assert policy_N[0].item() == pytest.approx(
        naive(one.policy.network, items[0].prompt, items[0].completions[0]).item(), rel=1e-5
    )


def test_a_head_that_does_something_unknown_is_refused():
    scorer = TokenScorer(gemma())
    scorer.softcap = None  # as if this model's rule were not known here
    with pytest.raises(UserError, match="not a plain function of its output head"):
        prove_head(scorer, "x")


def test_dropout_is_off_in_layers_and_in_plain_rates():
    network = model(dropout=0.5).train()
    without_dropout(network)
    ids = torch.arange(9)[None]
    assert torch.equal(network(ids).logits, network(ids).logits)


def test_conversations_score_like_text(one):
    items = items_of(chat_rows(3))
    policy_N, _ = one.scores(one.task.draw(one.task.collate(items)))
    expected = naive(one.policy.network, items[1].prompt, items[1].completions[0])
    assert policy_N[1].item() == pytest.approx(expected.item(), rel=1e-6)
