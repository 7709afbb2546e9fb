"""Kernels that a card alone has: rows without padding, and products summed up in float32."""

import pytest
import torch

from diffdpo.engine.transfer import on_device
from diffdpo.text.scoring.head import FloatLogits, has_product
from diffdpo.text.scoring.layout import laid_out
from diffdpo.text.scoring.padding_free import make_flexible, pack_rows
from diffdpo.text.scoring.scorer import TokenScorer, prove_head
from diffdpo.text.settings import FLEX
from tests.text import runs
from tests.text.factory import model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
LENGTHS = [(9, 40, 7), (1, 3, 60), (30, 1, 1)]


def test_logits_are_summed_up_in_float32():
    """Of numbers that bfloat16 holds exactly, against float64; 1e-3 is a fiftieth of what rounding
    the logits would do."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 64, generator=generator).bfloat16().cuda().requires_grad_()
    weight = torch.randn(1003, 64, generator=generator).bfloat16().float().cuda().requires_grad_()
    assert has_product(hidden.device, torch.bfloat16)
    with torch.autocast("cuda", torch.bfloat16):
        logits = FloatLogits.apply(hidden, weight, torch.bfloat16)
    exact = hidden.double() @ weight.double().T
    assert logits.dtype == torch.float32
    assert (logits - exact).abs().max() < 1e-3
    upstream = torch.randn(40, 1003, generator=generator).bfloat16().float().cuda()
    logits.backward(upstream)
    wanted = upstream.double().T @ hidden.double()
    assert (weight.grad - wanted).norm() < 1e-5 * wanted.norm()


def scored(attention, precision, adapted=False, packed=True):
    """Log-probabilities of three pairs and the gradients of their sum; under FlexAttention each
    prompt stands once."""
    network = model(0, layers=2)
    network.set_attn_implementation(attention)
    make_flexible(network)
    share = None if attention == FLEX else False
    scorer = TokenScorer(network.to("cuda", precision if adapted else None), share)
    prove_head(scorer, "x")
    if packed:
        pack_rows(scorer, precision)
    token_S = (torch.arange(sum(map(sum, LENGTHS))) * 31) % 271
    layout = on_device(laid_out(token_S, LENGTHS, scorer.rule), torch.device("cuda"))
    with torch.autocast("cuda", precision, enabled=precision != torch.float32):
        score_P = scorer(layout)[:, 0]
    score_P.sum().backward()
    return score_P.detach(), [w.grad.float() for w in scorer.parameters()]


def assert_like(apart, packed, tolerance):
    (one, grads), (other, packed_grads) = apart, packed
    assert torch.allclose(one, other, rtol=tolerance, atol=tolerance)
    for left, right in zip(grads, packed_grads, strict=True):
        assert (left - right).norm() <= 2 * tolerance * left.norm() + 1e-6


@pytest.mark.parametrize("attention", ["sdpa", FLEX])
@pytest.mark.parametrize("adapted", [False, True])
def test_packed_rows_score_as_rows_of_their_own(adapted, attention):
    """To bfloat16, with gradients; by the kernel for rows of unlike length, and FlexAttention's."""
    half = torch.bfloat16
    assert_like(scored("sdpa", half, adapted, False), scored(attention, half, adapted), 0.05)


def test_flexible_rows_score_so_in_float32():
    full = torch.float32
    assert_like(scored("sdpa", full, packed=False), scored(FLEX, full), 1e-3)


PACKED = [{"padding_free": True}, {"attn_implementation": FLEX}]
PACKED += [{"attn_implementation": FLEX, "torch_compile": True}]


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("changes", [{}, {"use_peft": True}])
def test_a_run_with_packed_rows_follows_the_run_without(lm, data, tmp_path, changes, packed):
    losses = []
    for name, more in {"plain": {"share_prefix": False}, "packed": packed}.items():
        words = {"mixed_precision": "bf16", **changes, **more}
        runs.train(*runs.flags(lm, data["pairs"], tmp_path / name, **words))
        losses.append([line["loss"] for line in runs.metrics(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
