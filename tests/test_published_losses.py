"""The published values of each loss."""

import math

import pytest
import torch
import torch.nn.functional as F

from diffdpo.losses import bco_loss, kto_loss, orpo_loss, preference_loss
from tests.test_losses import BETA, loss, negative


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (3.0, -2.0), (-4.0, 5.0)])
def test_published_formulas_in_plain_arithmetic(x, y):
    """Each formula once more, from its paper, with the standard library alone."""

    def sigma(value):
        return 1 / (1 + math.exp(-value))

    def power(logp):
        return (1 - math.exp(logp) ** -0.25) / 0.25

    b, d = BETA, x - y
    expected = {
        "sigmoid": -math.log(sigma(b * d)),
        "ipo": (d - 1 / (2 * b)) ** 2,
        "hinge": max(0.0, 1 - b * d),
        "robust": -(0.9 * math.log(sigma(b * d)) - 0.1 * math.log(sigma(-b * d))) / 0.8,
        "exo_pair": sigma(b * d) * (math.log(sigma(b * d)) - math.log(0.999))
        + sigma(-b * d) * (math.log(sigma(-b * d)) - math.log(0.001)),
        "nca_pair": -math.log(sigma(b * x))
        - 0.5 * math.log(sigma(-b * x))
        - 0.5 * math.log(sigma(-b * y)),
        "apo_zero": 1 - sigma(b * x) + sigma(b * y),
        "apo_down": sigma(b * x) + 1 - sigma(b * d),
        "sppo_hard": (x - 0.5 / b) ** 2 + (y + 0.5 / b) ** 2,
        "dpop": -math.log(sigma(b * (d - 50 * max(0.0, -x)))),
        "simpo": -math.log(sigma(b * d - 0.5)),
        "capo": (b * d - 1) ** 2,
        "discopop": -math.log(sigma(b * d)) * (1 - sigma(b * d / 0.05))
        + math.exp(-b * d) * sigma(b * d / 0.05),
        "alphapo": -math.log(sigma(b * (power(x) - power(y)) - 0.5)),
        "cpo": -math.log(sigma(b * d)),
        "cpo_hinge": max(0.0, 1 - b * d),
        "cpo_ipo": (d - 1 / (2 * b)) ** 2,
    }
    for name, value in expected.items():
        found = loss(name, torch.tensor([x]).double(), torch.tensor([y]).double()).item()
        assert found == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize("tau", [0.0, -1.0, 1.5])
def test_a_temperature_at_which_discopop_has_no_bound_is_refused(tau):
    with pytest.raises(ValueError, match=r"discopop_tau must lie in \(0, 1\]"):
        loss("discopop", torch.zeros(1), torch.zeros(1), discopop_tau=tau)


def test_discopop_rises_at_margin_zero_and_falls_far_from_it():
    margin = torch.tensor([-8.0, 0.0, 8.0], requires_grad=True)
    preference_loss("discopop", margin, torch.zeros(3), beta=1).sum().backward()
    # At 0 the slope is −½·½ − ½ + (1 − ln 2) / (4 τ).
    assert margin.grad[1].item() == pytest.approx(-0.75 + (1 - math.log(2)) / 0.2, rel=1e-5)
    assert margin.grad[0] < 0
    assert margin.grad[2] < 0


@pytest.mark.parametrize("alpha", [-0.5, 0.1, 0.25, 1.0])
def test_alphapo_at_any_alpha_is_simpo_of_its_rewards(alpha):
    chosen, rejected = negative(5), negative(5)
    rewards = [(1 - logp.exp() ** -alpha) / alpha for logp in (chosen, rejected)]
    expected = loss("simpo", *rewards, simpo_gamma=0.7)
    for name in ("simpo", "alphapo"):
        found = loss(name, chosen, rejected, simpo_gamma=0.7, alpha=alpha)
        assert torch.allclose(found, expected)
    plain = loss("simpo", chosen, rejected)
    assert torch.equal(plain, loss("alphapo", chosen, rejected, alpha=0.0))


def sorted_by_hand(u, v, smoothing):
    """Mean over ranks of −(1−ε) log σ(β(u_k − v_k)) − ε log σ(−β(u_k − v_k))."""
    total = 0.0
    for first, second in zip(sorted(u), sorted(v), strict=True):
        m = BETA * (first - second)
        total += (1 - smoothing) * math.log1p(math.exp(-m)) + smoothing * math.log1p(math.exp(m))
    return total / len(u)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_aot_compares_ranks(smoothing):
    x, y, v = [3.0, -1.0, 0.5, 2.0], [1.0, 4.0, -2.0, 0.0], [0.2, -6.0, 5.0, 1.0]
    chosen, rejected, frozen = (torch.tensor(each).double() for each in (x, y, v))
    options = {"label_smoothing": smoothing}
    found = loss("aot", chosen, rejected, reference_margin_B=frozen, **options).mean().item()
    margins = [a - b + c for a, b, c in zip(x, y, v, strict=True)]
    assert found == pytest.approx(sorted_by_hand(margins, v, smoothing), rel=1e-9)
    found = loss("aot_unpaired", chosen, rejected, **options).mean().item()
    assert found == pytest.approx(sorted_by_hand(x, y, smoothing), rel=1e-9)


def test_aot_without_the_references_margins_is_refused():
    with pytest.raises(ValueError, match="needs the reference's margins"):
        preference_loss("aot", torch.zeros(2), torch.zeros(2), beta=1)


def test_bco_holds_both_labels_to_the_mean_reward():
    reward, label = torch.tensor([0.4, 0.4, -1.0]).double(), torch.tensor([1, 0, 0])
    found = bco_loss(reward, label, 0.1, beta=2.0, desirable_weight=1.5, undesirable_weight=0.5)
    softplus = [1.5 * math.log1p(math.exp(-0.6)), 0.5 * math.log1p(math.exp(0.6))]
    assert found.tolist() == pytest.approx([*softplus, 0.5 * math.log1p(math.exp(-2.2))])
    # Of a pair the two items together, where single items are averaged.
    pair = torch.tensor([0.4]).double(), torch.tensor([-1.0]).double()
    both = preference_loss("bco_pair_mean", *pair, beta=2.0, kl=0.1)
    mean = preference_loss("bco", *pair, beta=2.0, kl=0.1)
    assert torch.allclose(both, 2 * mean)
    assert both.item() == pytest.approx(math.log1p(math.exp(-0.6)) + math.log1p(math.exp(-2.2)))


def test_kto_values_and_signs():
    reward, desirable = torch.tensor([0.4, 0.4], requires_grad=True), torch.tensor([1, 0])
    found = kto_loss(reward, desirable, 0.1, beta=2.0, desirable_weight=1.5, undesirable_weight=0.5)
    gain = 1 / (1 + math.exp(-0.6))
    assert found.tolist() == pytest.approx([1.5 * (1 - gain), 0.5 * gain])
    found.sum().backward()
    assert reward.grad[0] < 0 < reward.grad[1]


def test_orpo_is_the_log_odds_form_and_counts_the_nll_given():
    chosen, rejected = torch.tensor([-0.7]).double(), torch.tensor([-1.9]).double()

    def odds(logp):
        return logp.exp() / (1 - logp.exp())

    ratio = F.logsigmoid((odds(chosen) / odds(rejected)).log())
    assert torch.allclose(orpo_loss(chosen, rejected, beta=0.3), -chosen - 0.3 * ratio)
    assert torch.allclose(
        orpo_loss(chosen, rejected, beta=0.3, nll_B=torch.tensor([9.0])), 9 - 0.3 * ratio
    )


@pytest.mark.parametrize("margin", [-40.0, -12.3, -12.2, -1.0, 0.0, 1.0, 12.2, 12.3, 40.0])
@pytest.mark.parametrize("eta", [0.0, 0.01, 0.2])
def test_linear_has_the_gradient_of_the_published_loss(margin, eta):
    """Published: −stop-gradient(clip(1/2 − 0.4βΔ, η, 1 − η)) · Δ, here times β."""
    chosen = torch.tensor([margin - 1], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    loss("linear", chosen, rejected, linear_eta=eta).sum().backward()
    pull = min(max(0.5 - 0.4 * BETA * margin, eta), 1 - eta)
    assert chosen.grad.item() == pytest.approx(-BETA * pull, rel=1e-12)
    assert rejected.grad.item() == pytest.approx(BETA * pull, rel=1e-12)


def test_linear_is_the_integral_of_its_slope():
    margins = torch.linspace(-60, 60, 24001, dtype=torch.float64)
    values = loss("linear", margins, torch.zeros_like(margins))
    slopes = -(0.5 - 0.4 * BETA * margins).clamp(0.01, 0.99) * BETA
    steps = (slopes[1:] + slopes[:-1]) / 2 * margins.diff()
    torch.testing.assert_close(values.diff(), steps, rtol=1e-4, atol=1e-9)
    assert values[12000].item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("winner", "loser"), [(0.2, 0.3), (0.3, 0.2), (1e-4, 2.0), (0.5, 0.5)])
def test_mapo_is_the_published_loss_of_squared_errors(winner, loser):
    def phi(error):
        return 0.7 * error / (math.exp(0.7 * error) - 1)

    gain = 1000 * (phi(winner) - phi(loser))
    expected = winner + 0.2 * (math.log1p(math.exp(-abs(gain))) + max(0.0, -gain))
    scores = (torch.tensor([-0.5 * error], dtype=torch.float64) for error in (winner, loser))
    found = loss("mapo", *scores, beta_mapo=0.2, snr_value=0.7).item()
    assert found == pytest.approx(expected, rel=1e-7)
