"""Packed rows that hold the prompt of a pair once, under FlexAttention: the numbers of rows of
their own, by the mask that a CPU reads and by FlexAttention itself, in PyTorch's slow form."""

import functools
import itertools

import pytest
import torch
from peft import LoraConfig
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.attention import flex_attention as torch_flex
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from diffdpo.errors import UserError
from diffdpo.text.scoring import flexible
from diffdpo.text.scoring.layout import Rule, laid_out
from diffdpo.text.scoring.padding_free import make_flexible, pack_rows
from diffdpo.text.scoring.scorer import TOKENS_AT_ONCE, TokenScorer, tried
from diffdpo.text.settings import FLEX
from tests.text.factory import model
from tests.text.test_fast_paths import ITEMS, LOSSES, assert_same, run, scorer, small
from tests.text.test_padding_free import gpt2, passes_of_the_same
from tests.text.test_router import experts

NETWORKS = {
    "llama": lambda: model(0, layers=2),
    "fewer heads": lambda: small(LlamaConfig, LlamaForCausalLM),  # for keys and values
    "neox": lambda: small(GPTNeoXConfig, GPTNeoXForCausalLM),  # positions for a part of each head
}
LENGTHS = [(len(i.prompt), *map(len, i.completions)) for i in ITEMS]


@pytest.fixture
def kernel(monkeypatch):
    """FlexAttention itself, which keeps its gradient from a CPU and has one there."""
    monkeypatch.setattr(flexible, "KERNELS", {"cpu"})
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(flexible, "compiled", lambda name: getattr(torch_flex, name))


def packing(network=None, share=None):
    network = network or model(0, layers=2)
    network.set_attn_implementation(FLEX)
    make_flexible(network)
    one = scorer(network, share)
    pack_rows(one, torch.float32)
    return one


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("score_prompts", [False, True])
@pytest.mark.parametrize("settings", LOSSES, ids=["sigmoid", "sum of means", "orpo"])
def test_rows_that_share_change_nothing(make, score_prompts, settings):
    seen = passes_of_the_same(make(), packing, score_prompts=score_prompts, **settings)
    assert seen == [(1, flexible.LEAST)]


@pytest.mark.parametrize("share", [None, pytest.param(False, marks=pytest.mark.slow)])
def test_so_it_is_by_the_kernel(kernel, share):
    """With a LoRA, whose layers are computed again in the backward pass."""
    plain, tight = scorer(), packing(share=share)
    for one in (plain, tight):
        torch.manual_seed(0)
        one.network.requires_grad_(False)
        one.network.add_adapter(LoraConfig(target_modules="all-linear", init_lora_weights=False))
    tight.network.train()
    tight.network.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False}
    )
    assert_same(run(plain), run(tight))


def test_in_half_precision_too(kernel):
    def autocast():
        return torch.autocast("cpu", torch.bfloat16)

    rough, tight = run(scorer(), autocast=autocast), run(packing(), autocast=autocast)
    assert torch.allclose(rough[0], tight[0], rtol=0.02)


@pytest.mark.parametrize("at_once", [1, 30])
def test_how_many_tokens_there_are_in_a_pass_changes_nothing(monkeypatch, at_once):
    whole = run(packing())
    monkeypatch.setitem(TOKENS_AT_ONCE, "cpu", at_once)
    assert_same(whole, run(packing()))


def test_a_prompt_is_there_once_and_a_token_sees_its_own(kernel):
    """Every pair of tokens, told from what the tokens are: item, part and number in it."""
    rule = Rule(None, 32, 1 << 20, packed=True, masked=True)
    told = []
    for item, (prompt, *sides) in enumerate(LENGTHS):
        before = [("prompt", n) for n in range(prompt)]
        after = [[(side, n) for n in range(size)] for side, size in enumerate(sides)]
        # Without a prompt there is nothing to share, and its completions are rows of their own.
        rows = [[*before, *after[0], *after[1]]] if prompt else after
        told += [(item, number, *token) for number, row in enumerate(rows) for token in row]
    (read_31T,) = laid_out(torch.arange(sum(map(sum, LENGTHS))), LENGTHS, rule).reads()
    assert read_31T.shape[-1] == len(told) == sum(map(sum, LENGTHS))
    segment_1T = flexible.filled_up(read_31T)[2]
    seen_TT = flexible.visible(segment_1T)[0, 0]
    for query, key in itertools.product(range(len(told)), repeat=2):
        (*row, part, n), (*other, other_part, m) = told[query], told[key]
        before = m <= n if part == other_part else other_part == "prompt"
        assert seen_TT[query, key] == (row == other and before)
    assert seen_TT.any(dim=1).all()  # a softmax over nothing would be NaN
    mask = flexible.mask_of(segment_1T)
    dense = torch_flex.create_mask(mask.mask_mod, 1, 1, *mask.seq_lengths, device="cpu")
    assert torch.equal(dense[0, 0], seen_TT)
    assert mask.shape[-1] == flexible.LEAST
    assert flexible.LEAST % flexible.BLOCK == 0


def test_what_cannot_be_read_so_is_refused(capsys):
    windows = small(MistralConfig, MistralForCausalLM, sliding_window=4)
    with pytest.raises(UserError, match=f"{FLEX}: MistralForCausalLM has layers that see a part"):
        packing(windows)
    # Of its own kind, as one that keeps a state: what it is told of rows reaches nothing.
    deaf = gpt2()
    body = deaf.transformer.forward
    deaf.transformer.forward = lambda input_ids, **told: body(input_ids=input_ids, use_cache=False)
    deaf.set_attn_implementation(flexible.FLEXIBLE)
    with pytest.raises(UserError, match=f"{FLEX}: GPT2LMHeadModel scores rows that are packed"):
        pack_rows(TokenScorer(deaf, False), torch.float32)
    capped = {"softcap": 5.0}
    with pytest.raises(ValueError, match="knows no softcap"):
        flexible.flexible_attention(deaf, *[torch.ones(1, 1, 2, 4)] * 3, None, **capped)


def test_a_device_without_its_gradient_is_told_before_the_first_step(kernel, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(flexible, "KERNELS", {"cpu"})
    monkeypatch.setattr(flexible, "compiled", lambda name: getattr(torch_flex, name))
    with pytest.raises(UserError, match=f"{FLEX}: cannot be used .* does not support backward on"):
        packing()


def test_routers_are_read_of_every_token_once():
    from diffdpo.text.scoring.router import router_balance

    plain, tight = scorer(experts()), packing(experts(), share=False)
    for one in (plain, tight):
        one.balance = router_balance(one.network, 0.3)
    assert_same(run(plain), run(tight))


@pytest.mark.slow
def test_it_is_compiled_once_for_all_lengths(monkeypatch):
    counters = {}

    @functools.cache
    def compiled(name):
        counters[name] = CompileCounterWithBackend("eager")
        return torch.compile(getattr(torch_flex, name), dynamic=True, backend=counters[name])

    monkeypatch.setattr(flexible, "KERNELS", {"cpu"})
    monkeypatch.setattr(flexible, "compiled", compiled)
    network = model(0, layers=2)
    network.set_attn_implementation(flexible.FLEXIBLE)
    one = scorer(network, None)
    one.packed = True
    items = [(30, 20, 10), (0, 40, 5), (200, 90, 110)] * 3
    with torch.no_grad():
        for count in (1, 3, 9, 4, 2):
            tried(one, *items[:count])
    compiled_once = {"create_block_mask": 1, "flex_attention": 1}
    assert {name: counter.frame_count for name, counter in counters.items()} == compiled_once
