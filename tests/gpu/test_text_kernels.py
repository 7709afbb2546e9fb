"""Kernels that a card alone has: rows without padding, and products summed up in float32."""

import pytest
import torch

from diffdpo.engine.transfer import on_device
from diffdpo.text.scoring.head import FloatLogits, has_product
from diffdpo.text.scoring.layout import laid_out
from diffdpo.text.scoring.padding_free import pack_rows
from diffdpo.text.scoring.scorer import TokenScorer, prove_head
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


@pytest.mark.parametrize("adapted", [False, True])
def test_packed_rows_score_as_rows_of_their_own(adapted):
    """To bfloat16, with gradients; by the kernel for rows of unlike length."""
    results = []
    for packed in (False, True):
        network = model(0, layers=2)
        scorer = TokenScorer(network.to("cuda", torch.bfloat16 if adapted else None), False)
        prove_head(scorer, "x")
        if packed:
            pack_rows(scorer, torch.bfloat16)
        token_S = (torch.arange(sum(map(sum, LENGTHS))) * 31) % 271
        layout = on_device(laid_out(token_S, LENGTHS, scorer.rule), torch.device("cuda"))
        with torch.autocast("cuda", torch.bfloat16):
            score_P = scorer(layout)[:, 0]
        score_P.sum().backward()
        results.append((score_P.detach(), [w.grad.float() for w in scorer.parameters()]))
    (one, grads), (other, packed_grads) = results
    assert torch.allclose(one, other, rtol=0.05, atol=0.05)
    for left, right in zip(grads, packed_grads, strict=True):
        assert (left - right).norm() <= 0.1 * left.norm() + 1e-6


@pytest.mark.parametrize("changes", [{}, {"use_peft": True}])
def test_a_run_with_packed_rows_follows_the_run_without(lm, data, tmp_path, changes):
    losses = []
    for name, more in {"plain": {"share_prefix": False}, "packed": {"padding_free": True}}.items():
        words = {"mixed_precision": "bf16", **changes, **more}
        runs.train(*runs.flags(lm, data["pairs"], tmp_path / name, **words))
        losses.append([line["loss"] for line in runs.metrics(tmp_path / name)])
    assert losses[1] == pytest.approx(losses[0], abs=0.02)
