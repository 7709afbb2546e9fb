"""Every faster road leads to the numbers of the plain one: scores, loss, gradients, to float32
rounding."""

import copy
from contextlib import nullcontext

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from diffdpo.engine.step_context import Scorers, step_context
from diffdpo.preference import implicit_reward
from diffdpo.reference import Zero
from diffdpo.text.flags.loss_settings import text_objective
from diffdpo.text.scoring import scorer as scorers
from diffdpo.text.scoring.batch import collate
from diffdpo.text.scoring.layout import forward_passes, lay_out, pays
from diffdpo.text.scoring.logprob import BLOCK, TokenLogProbability
from diffdpo.text.scoring.scorer import TokenScorer, prove_head
from diffdpo.text.settings import TextSettings
from diffdpo.text.task import TextTask
from diffdpo.text.tokens.row_reader import TextItem
from tests.text.factory import model


def item(row, prompt, chosen, rejected, **more):
    first = 11 + 17 * row
    flat = [(first + 7 * index) % 271 for index in range(prompt + chosen + rejected)]
    return TextItem(
        row, flat[:prompt], (flat[prompt : prompt + chosen], flat[prompt + chosen :]), **more
    )


# Different lengths, an empty prompt, completions of one token, a long prompt, identical
# completions.
ITEMS = [item(0, 9, 4, 7), item(1, 0, 3, 2), item(2, 5, 1, 1), item(3, 40, 2, 3), item(4, 1, 8, 2)]
ITEMS.append(TextItem(5, [60, 61, 62], ([63, 64], [63, 64])))


def scorer(network=None, share=False):
    tested = TokenScorer(copy.deepcopy(network) if network else model(0, layers=2), share)
    prove_head(tested, "x")  # it is what allows prompts to be shared
    return tested


def run(policy, items=ITEMS, score_prompts=False, autocast=nullcontext, **settings):
    """Scores, loss and gradients of a batch, against a fixed reference score."""
    task = TextTask(torch.device("cpu"), autocast, score_prompts)
    objective, batch = text_objective(TextSettings(**settings)), collate(items)
    scorers = Scorers(task, policy, Zero(), total=lambda value: value)
    context = step_context(objective, scorers, [batch])
    draw = task.draw(batch)
    policy.zero_grad()
    scores = task.score(policy, draw)
    # Fixed distances to the reference: at a reward of 0 many a mistake in a gradient does not show.
    score_N = scores.score_N
    offsets = torch.linspace(-2, 2, len(score_N))
    frozen_N = 0.0 if objective.reference_free else score_N.detach() - offsets
    reward_N = implicit_reward(score_N, frozen_N)
    loss = objective.loss(scores, reward_N, draw, context).mean()
    loss.backward()
    return (
        torch.cat([score_N, *([scores.prompt_B] if score_prompts else [])]).detach(),
        loss.detach(),
        [w.grad.clone() for w in policy.parameters() if w.grad is not None],
    )


def assert_same(a, b, rtol=1e-5):
    assert torch.allclose(a[0], b[0], rtol=rtol, atol=1e-5)
    assert torch.allclose(a[1], b[1], rtol=rtol)
    assert len(a[2]) == len(b[2]) > 0
    for left, right in zip(a[2], b[2], strict=True):
        assert torch.allclose(left, right, rtol=1e-4, atol=1e-5 * left.abs().max().clamp(min=1))


LOSSES = [
    {},
    {"loss_type": ["sigmoid_norm", "sft"], "loss_weights": [1.0, 0.3]},
    {"loss_type": ["orpo"]},
]


@pytest.mark.parametrize("settings", LOSSES, ids=["sigmoid", "sum of means", "orpo"])
@pytest.mark.parametrize("score_prompts", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_shared_prompt_changes_nothing(settings, score_prompts, attention):
    network = model(0, layers=2)
    network.set_attn_implementation(attention)
    plain, shared = (scorer(network, share) for share in (False, True))
    assert shared.can_share
    assert_same(
        run(plain, score_prompts=score_prompts, **settings),
        run(shared, score_prompts=score_prompts, **settings),
    )


@pytest.mark.parametrize("share", [False, True])
def test_how_rows_meet_in_passes_changes_nothing(monkeypatch, share):
    """One by one, all that fit together, as much as there is."""
    results = []
    for tokens, padding in ((1, 0.0), (64, 0.3), (1 << 20, 0.99)):
        monkeypatch.setitem(scorers.TOKENS_AT_ONCE, "cpu", tokens)
        monkeypatch.setattr("diffdpo.text.scoring.layout.PADDING", padding)
        results.append(run(scorer(share=share)))
    assert_same(results[0], results[1])
    assert_same(results[0], results[2])


def test_the_prompt_is_computed_once_and_nothing_is_computed_twice():
    seen = []
    shared = scorer(share=True)
    shared.network.get_input_embeddings().register_forward_hook(
        lambda module, inputs, out: seen.append(inputs[0].numel())
    )
    run(shared, items=[item(0, 9, 4, 7), item(1, 9, 4, 7)])
    assert sum(seen) == 2 * (9 + 4 + 7)


def test_a_shared_prompt_under_checkpointing_lora_and_bf16():
    from peft import LoraConfig

    plain, shared = (scorer(share=share) for share in (False, True))
    for one in (plain, shared):
        torch.manual_seed(0)
        one.network.requires_grad_(False)
        one.network.add_adapter(
            LoraConfig(target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
        )
    shared.network.train()
    shared.network.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    assert_same(run(plain), run(shared))

    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    rough, rough_shared = run(plain, autocast=autocast), run(shared, autocast=autocast)
    assert rough_shared[0].dtype == torch.float32
    assert torch.allclose(rough[0], rough_shared[0], rtol=0.02)


def small(config_class, network_class, **more):
    torch.manual_seed(0)
    shape = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return network_class(
        config_class(vocab_size=271, num_key_value_heads=1, initializer_range=0.3, **shape, **more)
    )


def test_where_prompts_cannot_be_shared_it_is_said(capsys):
    windowed = scorer(small(MistralConfig, MistralForCausalLM, sliding_window=4), share=None)
    assert not windowed.can_share
    assert (
        "prompts      computed for each completion: layers that see a part"
        in capsys.readouterr().out
    )
    whole = scorer(small(MistralConfig, MistralForCausalLM, sliding_window=None), share=None)
    assert whole.can_share

    class Deaf(GPT2LMHeadModel):
        """Its body ignores masks and positions, as a state-space model's does."""

    deaf = Deaf(
        GPT2Config(vocab_size=271, n_embd=16, n_layer=1, n_head=2, initializer_range=0.3)
    ).eval()
    plain_forward = deaf.transformer.forward
    deaf.transformer.forward = lambda input_ids, **ignored: plain_forward(
        input_ids=input_ids, use_cache=False
    )
    one = TokenScorer(deaf, True)
    prove_head(one, "x")
    assert not one.can_share
    assert "in one row are others than in two" in capsys.readouterr().out

    def without_positions(input_ids, position_ids=None, **ignored):
        if position_ids is not None:
            raise TypeError("no positions")
        return plain_forward(input_ids=input_ids, use_cache=False)

    deaf.transformer.forward = without_positions
    prove_head(one, "x")
    assert not one.can_share
    assert "takes no such mask (no positions)" in capsys.readouterr().out
    assert not scorer(share=False).can_share
    assert capsys.readouterr().out == ""


def test_a_prompt_is_shared_where_that_pays():
    """Long prompts, short completions, wide networks; the measurements are in ``layout``."""
    assert pays((400, 50, 50), 384)
    assert pays((100, 200, 200), 384)
    assert not pays((100, 200, 200), 64)
    assert not pays((10, 200, 200), 384)
    assert not pays((200, 700, 700), 384)
    assert [
        len(row.sides)
        for row in lay_out([(400, 50, 50), (0, 5, 5), (9, 5)], scorer(share=None).rule.shares)
    ] == [
        2,
        1,
        1,
        1,
    ]


def test_passes_hold_little_padding_and_every_row_once():
    lengths = [(len(i.prompt), *map(len, i.completions)) for i in ITEMS * 3]
    rows = lay_out(lengths, lambda sizes: sizes[0] > 4)
    batches = forward_passes(rows, 512)
    assert sorted(row.token_S.tolist() for batch in batches for row in batch) == sorted(
        r.token_S.tolist() for r in rows
    )
    for batch in batches:
        real = sum(row.size for row in batch)
        assert len(batch) * batch[0].size * 0.95 <= real
        assert len({len(row.sides) for row in batch}) == 1
    assert max(map(len, batches)) > 1  # or passes of one row each would do


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("block", [1, 5 * 9, 1 << 20])
def test_log_probabilities_and_their_gradient_are_the_plain_ones(monkeypatch, dtype, block):
    monkeypatch.setitem(BLOCK, "cpu", block)
    torch.manual_seed(0)
    source = (3 * torch.randn(7, 9)).to(dtype)
    source[0, 3] = 1e4  # certain
    target_P, weight_P = torch.tensor([3, 0, 8, 4, 4, 1, 2]), torch.randn(7)
    plain, ours = source.clone().requires_grad_(), source.clone().requires_grad_()
    logits = plain.float()
    expected = logits.log_softmax(1).gather(1, target_P[:, None]).squeeze(1)
    (expected * weight_P).sum().backward()
    # Times 1, because a leaf must not be written over.
    column_PK = TokenLogProbability.apply(ours * 1, target_P, True)
    (column_PK[:, 0] * weight_P).sum().backward()
    assert column_PK.dtype == torch.float32
    assert torch.allclose(column_PK[:, 0], expected, rtol=1e-6, atol=1e-6)
    assert torch.allclose(
        ours.grad, plain.grad, rtol=1e-5 if dtype != torch.bfloat16 else 1e-2, atol=1e-6
    )
    spread = torch.distributions.Categorical(logits=logits.detach())
    assert torch.equal(column_PK[:, 1].bool(), logits.argmax(1) == target_P)
    assert torch.allclose(column_PK[:, 2], spread.entropy(), rtol=1e-4, atol=1e-3)
    assert torch.allclose(column_PK[:, 3], logits.detach().mean(1), rtol=1e-5)
    same = spread.probs.double().square().sum(1).log().float()
    assert torch.allclose(column_PK[:, 4], same, rtol=1e-4, atol=1e-6)


def test_the_logits_are_given_up_to_the_gradient():
    """So a second backward pass is an error, not a wrong number."""
    logits = torch.randn(3, 5, requires_grad=True) * 1
    logp_PK = TokenLogProbability.apply(logits, torch.tensor([0, 1, 2]), False)
    logp_PK[:, 0].sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="inplace"):
        logp_PK[:, 0].sum().backward()


def test_no_scored_token_at_all():
    scores, _, _ = run(scorer(), items=[TextItem(0, [], ([5], [6]))])
    assert scores.tolist() == [0, 0]
