"""Every row of the table: sign, gradient, scale, edges."""

import math

import pytest
import torch

from diffdpo.losses import LOSSES, preference_loss
from diffdpo.preference import log_odds

BETA = 0.1
SMOOTH = {"exo_pair": 1e-3}


def loss(name, chosen, rejected, **options):
    if LOSSES[name].reads_gap:
        options = {"gap_B": torch.ones_like(chosen)} | options
    if "reference_margin_B" in LOSSES[name].data:
        options = {
            "reference_margin_B": torch.linspace(0.5, -0.5, len(chosen)).to(chosen)
        } | options
    return preference_loss(name, chosen, rejected, beta=BETA, **options)


def negative(*shape):
    """Values that can be log-probabilities as well as rewards."""
    return -torch.rand(*shape, dtype=torch.float64) - 0.1


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def test_gradients_match_finite_differences(name):
    torch.manual_seed(0)
    inputs = [negative(5).requires_grad_(), negative(5).requires_grad_()]
    assert torch.autograd.gradcheck(lambda c, r: loss(name, c, r), inputs)


def test_a_larger_margin_is_better_at_margin_zero(name):
    if name == "discopop":
        pytest.skip("its published shape rises there")
    chosen, rejected = (torch.full((1,), -0.5, requires_grad=True) for _ in range(2))
    loss(name, chosen, rejected).sum().backward()
    assert (chosen.grad - rejected.grad).item() < 0


def test_one_loss_per_pair_in_float32_whatever_comes_in(name):
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        found = loss(name, negative(3).to(dtype), negative(3).to(dtype))
        assert found.shape == (3,)
        assert found.dtype == torch.float32


def test_pairs_do_not_touch_each_other_unless_the_row_says_so(name):
    torch.manual_seed(0)
    chosen, rejected = negative(6), negative(6)
    whole = loss(name, chosen, rejected)
    alone = torch.equal(whole[2:3], loss(name, chosen[2:3], rejected[2:3]))
    assert alone != LOSSES[name].of_step


@pytest.mark.parametrize("margin", [-1e4, -1e2, 0.0, 1e2, 1e4])
def test_value_and_gradient_stay_finite_far_out(name, margin):
    chosen = torch.tensor([min(margin, 0.0)], requires_grad=True)
    rejected = torch.tensor([min(-margin, 0.0)], requires_grad=True)
    found = loss(name, chosen, rejected).sum()
    found.backward()
    assert all(torch.isfinite(x).all() for x in (found, chosen.grad, rejected.grad))


def test_settings_a_loss_does_not_read_are_refused(name):
    with pytest.raises(ValueError, match="does not read"):
        loss(name, torch.zeros(1), torch.zeros(1), no_such_setting=1.0)
    if "label_smoothing" not in LOSSES[name].options:
        with pytest.raises(ValueError, match="label_smoothing"):
            loss(name, torch.zeros(1), torch.zeros(1), label_smoothing=0.1)


def test_no_smoothing_may_be_asked_of_every_loss_but_exo(name):
    """Where a loss has none, 0 changes nothing; exo's divergence is infinite at 0."""
    chosen, rejected = negative(3), negative(3)
    if name == "exo_pair":
        with pytest.raises(ValueError, match=r"exo_pair: label_smoothing must lie in \(0, 1\)"):
            loss(name, chosen, rejected, label_smoothing=0.0)
    elif name == "robust":
        none = loss(name, chosen, rejected, label_smoothing=0.0)
        torch.testing.assert_close(none, loss("sigmoid", chosen, rejected))
    else:
        none = loss(name, chosen, rejected, label_smoothing=0.0)
        assert torch.equal(none, loss(name, chosen, rejected))


def test_unknown_names_and_bad_betas_are_refused():
    with pytest.raises(ValueError, match="sigmoid"):
        preference_loss("sigmod", torch.zeros(1), torch.zeros(1), beta=1)
    for beta in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="beta"):
            preference_loss("sigmoid", torch.zeros(1), torch.zeros(1), beta=beta)


@pytest.mark.parametrize("logistic", ["sigmoid", "robust", "dpop", "sigmoid_norm"])
def test_ln_2_at_margin_zero(logistic):
    assert loss(logistic, torch.zeros(1), torch.zeros(1)).item() == pytest.approx(
        math.log(2), abs=1e-7
    )


PLAIN = [
    name
    for name, row in LOSSES.items()
    if row.paired and not row.reference_free and not row.of_step
]


@pytest.mark.parametrize("name", PLAIN)
def test_rows_that_read_the_margin_alone_say_so(name):
    torch.manual_seed(0)
    chosen, rejected, shared = negative(5), negative(5), negative(5)
    same = torch.allclose(
        loss(name, chosen, rejected), loss(name, chosen + shared, rejected + shared)
    )
    claimed = LOSSES[name].of_margin
    # A plain function of somebody's own claims nothing.
    assert claimed == same or (":" in name and not claimed)


def test_label_smoothing_is_the_expected_loss_under_flipped_labels():
    chosen, rejected = torch.randn(2, 7)
    smooth = loss("sigmoid", chosen, rejected, label_smoothing=0.3)
    expected = 0.7 * loss("sigmoid", chosen, rejected) + 0.3 * loss("sigmoid", rejected, chosen)
    assert torch.allclose(smooth, expected)


def test_robust_is_unbiased_under_flips():
    chosen, rejected = torch.randn(2, 7).double()
    kept = loss("robust", chosen, rejected, label_smoothing=0.2)
    flipped = loss("robust", rejected, chosen, label_smoothing=0.2)
    assert torch.allclose(0.8 * kept + 0.2 * flipped, loss("sigmoid", chosen, rejected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_odds_are_finite_up_to_certainty(dtype):
    logp = torch.tensor(
        [0.0, -1e-30, -1e-8, -1e-4, -0.6, -0.7, -30.0, -1e4], dtype=dtype, requires_grad=True
    )
    found = log_odds(logp)
    found.sum().backward()
    assert torch.isfinite(found).all()
    assert torch.isfinite(logp.grad).all()
    exact = logp.detach()[3:6].double()
    assert torch.allclose(found[3:6].double(), exact - (-exact.expm1()).log(), rtol=1e-4)


def test_a_gap_that_is_missing_is_no_gap_of_zero():
    with pytest.raises(ValueError, match="needs the gap of every pair"):
        preference_loss("capo", torch.zeros(1), torch.zeros(1), beta=1)
    gap = torch.tensor([3.0, -2.0])
    found = preference_loss("capo", gap / 2, torch.zeros(2), beta=2, gap_B=gap)
    assert found.tolist() == [0.0, 0.0]
