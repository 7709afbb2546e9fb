"""The output head: float32 from half-precision products, against float64, in chunks and whole."""

import copy
import functools

import pytest
import torch
from torch import nn

from diffdpo.text.scoring import head as heads
from diffdpo.text.scoring.head import FloatLogits, half_type
from diffdpo.text.scoring.logprob import LOGP, TokenLogProbability
from tests.text.test_fast_paths import run, scorer

POSITIONS, WIDTH, WORDS = 40, 24, 300


def inputs():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator)
    weight = torch.randn(WORDS, WIDTH, generator=generator)
    target = torch.randint(WORDS, (POSITIONS,), generator=generator)
    upstream = torch.randn(POSITIONS, generator=generator)
    return hidden.bfloat16().float(), weight.bfloat16().float(), target, upstream


def graded(logits_of, hidden, weight, target, upstream):
    """Log-probabilities and the gradients of their weighted sum."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    logits = logits_of(hidden, weight)
    if logits.dtype == torch.float64:
        logp = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
    else:
        logp = TokenLogProbability.apply(logits, target, False)[:, LOGP]
    (logp * upstream).sum().backward()
    return logp.detach(), hidden.grad, weight.grad


def test_products_in_half_precision_are_summed_up_in_float32():
    """Of inputs that bfloat16 holds exactly, log-probabilities are those of float64 to 1e-5; the
    gradients differ by the rounding of the logits' gradient alone, 2⁻⁹ of each of its numbers."""
    hidden, weight, target, upstream = inputs()
    exact = graded(
        lambda h, w: h @ w.T, hidden.double(), weight.double(), target, upstream.double()
    )
    half = graded(
        lambda h, w: FloatLogits.apply(h, w, torch.bfloat16), hidden, weight, target, upstream
    )
    rounded = graded(
        lambda h, w: (h.bfloat16() @ w.bfloat16().T).float(), hidden, weight, target, upstream
    )
    assert (half[0] - exact[0]).abs().max() < 1e-5
    assert (rounded[0] - exact[0]).abs().max() > 1e-3  # what this head is for
    for ours, theirs, naive in zip(half[1:], exact[1:], rounded[1:], strict=True):
        error = (ours - theirs).norm() / theirs.norm()
        assert ours.dtype == torch.float32
        assert error < 2**-9
        assert error < (naive - theirs).norm() / theirs.norm()


def test_gradients_are_those_of_finite_differences():
    hidden, weight, target, upstream = inputs()

    def value(h, w):
        return float((h @ w.T).log_softmax(1).gather(1, target[:, None])[:, 0] @ upstream.double())

    _, of_hidden, of_weight = graded(
        lambda h, w: FloatLogits.apply(h, w, torch.bfloat16), hidden, weight, target, upstream
    )
    generator = torch.Generator().manual_seed(1)
    for grad, at in ((of_hidden, 0), (of_weight, 1)):
        way = torch.randn(grad.shape, generator=generator, dtype=torch.double)
        ends = []
        for step in (1e-5, -1e-5):
            both = [hidden.double(), weight.double()]
            both[at] = both[at] + step * way
            ends.append(value(*both))
        slope = (ends[0] - ends[1]) / 2e-5
        ours = float((grad.double() * way).sum())
        # The gradient's error, a share of 2⁻⁹ at most, along a way of unit steps.
        assert ours == pytest.approx(slope, abs=4 * 2**-9 * float(grad.norm()))
        assert abs(slope) > 16 * 2**-9 * float(grad.norm())


@pytest.fixture
def float_sums(monkeypatch):
    monkeypatch.setattr(heads, "FLOAT_SUMS", {"cpu"})


def test_which_heads_are_computed_so(float_sums, monkeypatch):
    hidden = torch.zeros(2, 4)
    plain = nn.Linear(4, 5, bias=False)
    assert half_type(plain, hidden) is None  # float32
    with torch.autocast("cpu", torch.bfloat16):
        assert half_type(plain, hidden) == torch.bfloat16
        assert half_type(nn.Linear(4, 5), hidden) is None  # a bias
        with monkeypatch.context() as patched:
            patched.setattr(heads, "has_product", lambda device, half: False)
            assert half_type(plain, hidden) is None  # a device without such products
        adapted = copy.deepcopy(plain)
        adapted.register_forward_hook(lambda *_: None)
        assert half_type(adapted, hidden) is None
        heads.FLOAT_SUMS.clear()
        assert half_type(plain, hidden) is None
    heads.FLOAT_SUMS.add("cpu")
    assert half_type(plain.bfloat16(), hidden) == torch.bfloat16


def test_a_device_is_asked_whether_it_has_such_products(monkeypatch):
    heads.has_product.cache_clear()
    assert heads.has_product(torch.device("cpu"), torch.bfloat16)
    for error in (RuntimeError("not implemented"), TypeError("out_dtype")):

        def missing(left, right, error=error):
            raise error

        heads.has_product.cache_clear()
        monkeypatch.setattr(heads, "product", missing)
        assert not heads.has_product(torch.device("cpu"), torch.bfloat16)
    heads.has_product.cache_clear()


def test_a_step_in_half_precision_scores_with_it_and_chunks_change_nothing(float_sums, monkeypatch):
    autocast = functools.partial(torch.autocast, "cpu", torch.bfloat16)
    whole, pieces = scorer(), scorer()
    pieces.at_once = 7 * 271  # logits of a few positions
    seen, plain = [], type(whole).log_probabilities

    def kept(policy, hidden_PC, target_P, *more):
        seen.append((hidden_PC.detach(), target_P, plain(policy, hidden_PC, target_P, *more)))
        return seen[-1][-1]

    monkeypatch.setattr(type(whole), "log_probabilities", kept)
    one, many = run(whole, autocast=autocast), run(pieces, autocast=autocast)
    hidden_PC, target_P, column_PK = seen[0]
    head = whole.network.get_output_embeddings().weight.detach()
    logits_PV = hidden_PC.bfloat16().double() @ head.bfloat16().double().T
    logp_P = logits_PV.log_softmax(1).gather(1, target_P[:, None])[:, 0]
    assert torch.allclose(column_PK[:, LOGP].double(), logp_P, rtol=0, atol=1e-5)
    assert torch.allclose(one[0], many[0], rtol=1e-6)
    for left, right in zip(one[2], many[2], strict=True):
        # Of the head in float32 throughout; the body is given gradients of other roundings.
        assert (left - right).norm() <= 2e-2 * left.norm()
