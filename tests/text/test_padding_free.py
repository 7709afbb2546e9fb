"""Rows one behind the other, without padding: the numbers of rows of their own, where the network's
attention knows the rows; one line where it does not."""

import copy
import itertools
import sys
from types import ModuleType

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
)

from diffdpo.errors import UserError
from diffdpo.text.scoring import packed
from diffdpo.text.scoring.padding_free import pack_rows
from diffdpo.text.scoring.scorer import TOKENS_AT_ONCE, TokenScorer
from tests.text import runs
from tests.text.factory import model
from tests.text.test_fast_paths import ITEMS, LOSSES, assert_same, run, scorer, small
from tests.text.test_router import experts


def packing(network=None):
    one = scorer(network)
    pack_rows(one, torch.float32)
    return one


def gpt2():
    torch.manual_seed(0)
    shape = {"n_embd": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    return GPT2LMHeadModel(GPT2Config(vocab_size=271, **shape)).eval()


def passes_of_the_same(network, packing, **settings):
    """The shapes of the passes over rows that are packed, whose numbers are those of rows of their
    own."""
    seen = []
    plain, tight = scorer(network), packing(network)
    tight.network.get_input_embeddings().register_forward_hook(
        lambda module, inputs, out: seen.append(tuple(inputs[0].shape))
    )
    assert_same(run(plain, **settings), run(tight, **settings))
    return seen


NETWORKS = {
    "llama": lambda: model(0, layers=2),
    # Half of the heads for keys and values; windows shorter than most rows.
    "mistral": lambda: small(MistralConfig, MistralForCausalLM, sliding_window=4),
    "gpt2": gpt2,  # learnt positions
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("score_prompts", [False, True])
@pytest.mark.parametrize("settings", LOSSES, ids=["sigmoid", "sum of means", "orpo"])
def test_packed_rows_change_nothing(make, score_prompts, settings):
    seen = passes_of_the_same(make(), packing, score_prompts=score_prompts, **settings)
    # One row of all tokens, a prompt for each completion.
    assert seen == [(1, sum(2 * len(i.prompt) + sum(map(len, i.completions)) for i in ITEMS))]


@pytest.mark.parametrize("at_once", [1, 30])
def test_how_many_tokens_there_are_in_a_pass_changes_nothing(monkeypatch, at_once):
    whole = run(packing())
    monkeypatch.setitem(TOKENS_AT_ONCE, "cpu", at_once)
    assert_same(whole, run(packing()))


def test_packed_rows_under_checkpointing_and_bf16():
    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    plain, tight = scorer(), packing()
    tight.network.train()
    tight.network.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    assert_same(run(plain), run(tight))
    rough, tight = run(plain, autocast=autocast), run(tight, autocast=autocast)
    assert torch.allclose(rough[0], tight[0], rtol=0.02)


def test_routers_are_read_of_every_token_once():
    from diffdpo.text.scoring.router import router_balance

    def balanced():
        one = scorer(experts())
        one.balance = router_balance(one.network, 0.3)
        return one

    plain, tight = balanced(), balanced()
    pack_rows(tight, torch.float32)
    assert_same(run(plain), run(tight))


def test_what_reads_over_the_end_of_a_row_is_refused():
    # Of its own kind, as one that keeps a state: what it is told of rows reaches nothing.
    deaf = gpt2()
    body = deaf.transformer.forward
    deaf.transformer.forward = lambda input_ids, **told: body(input_ids=input_ids, use_cache=False)
    one = TokenScorer(deaf, False)
    with pytest.raises(UserError, match="packed otherwise than rows of their own"):
        pack_rows(one, torch.float32)
    capped = {"softcap": 5.0, "cu_seq_lens_q": torch.tensor([0, 2])}
    with pytest.raises(ValueError, match="knows no softcap"):
        packed.packed_attention(deaf, *[torch.ones(1, 1, 2, 4)] * 3, None, **capped)
    eager = model(0)
    eager.set_attn_implementation("eager")
    with pytest.raises(UserError, match="eager attention does not know where a row ends"):
        packing(eager)


def test_a_network_that_is_packed_generates_as_before():
    """Padded on the left, which its attention has to see."""
    network, padded = model(0, layers=2), torch.tensor([[2, 2, 60, 61], [60, 61, 62, 63]])
    real = (padded != 2).long()
    inputs = {"input_ids": padded, "attention_mask": real, "max_new_tokens": 5, "do_sample": False}
    before = copy.deepcopy(network).generate(**inputs, pad_token_id=2)
    assert torch.equal(packing(network).network.generate(**inputs, pad_token_id=2), before)


def test_the_kernel_is_told_of_rows_heads_and_windows(monkeypatch):
    """FlashAttention's call, by a stand-in that computes it from PyTorch's documentation of it."""
    calls = []

    def kernel(query, key, value, cu_q, cu_k, max_q, max_k, *, scale, window_size):
        calls.append((query.dtype, max_q, window_size))
        assert query.shape == key.shape == value.shape
        assert torch.equal(cu_q, cu_k)
        assert cu_q.dtype == torch.int32
        rows = []
        for first, end in zip(cu_q.tolist(), cu_q.tolist()[1:], strict=False):
            logits = torch.einsum("qhd,khd->hqk", query[first:end], key[first:end]).float() * scale
            behind = torch.arange(end - first)[:, None] - torch.arange(end - first)
            seen = behind >= -window_size[1]
            if window_size[0] >= 0:
                seen &= behind <= window_size[0]
            weight = logits.masked_fill(~seen, -torch.inf).softmax(-1).to(value.dtype)
            rows.append(torch.einsum("hqk,khd->qhd", weight, value[first:end]))
        return torch.cat(rows)

    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = kernel
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
    torch.manual_seed(0)
    starts = torch.tensor([0, 7, 8, 20], dtype=torch.int32)
    both = [torch.randn(20, heads, 8) for heads in (4, 2, 2)]
    for window in (None, 3):
        expected = packed.row_by_row(both, starts.tolist(), 0.3, window)
        found = packed.by_kernel(both, starts, 12, 0.3, window)
        assert torch.allclose(found, expected, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            rough = packed.by_kernel(both, starts, 12, 0.3, window)
        assert torch.allclose(rough.float(), expected, atol=0.05)
    assert [call[2] for call in calls] == [(-1, 0), (-1, 0), (2, 0), (2, 0)]
    assert {call[0] for call in calls} == {torch.float32, torch.bfloat16}
    assert {call[1] for call in calls} == {12}


def test_a_run_with_packed_rows_is_the_run_without(lm, data, tmp_path):
    outs = {}
    for name, changes in {
        "plain": {"share_prefix": False},
        "packed": {"padding_free": True, "eval_strategy": "no"},
        "flexible": {
            "padding_free": True,
            "share_prefix": True,
            "attn_implementation": "flex_attention",
        },
    }.items():
        runs.train(*runs.flags(lm, data["pairs"], tmp_path / name, use_peft=True, **changes))
        outs[name] = runs.metrics(tmp_path / name)
    plain = outs.pop("plain")
    assert len(plain) == 4
    for one, other in itertools.chain(*(zip(plain, out, strict=True) for out in outs.values())):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-5), key


def test_the_flag_says_where_it_cannot_be_used(lm, data, tmp_path, capsys):
    words = runs.flags(lm, data["pairs"], tmp_path, padding_free=True, attn_implementation="eager")
    runs.fails_with(words, "--padding_free: eager attention does not know where a row ends", capsys)
