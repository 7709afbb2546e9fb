"""The process of flow models against its equations, and against diffusers."""

import re

import diffusers
import numpy as np
import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from diffdpo.errors import UserError
from diffdpo.image.facts import beta_in_units
from diffdpo.image.flags.process_settings import ProcessSettings
from diffdpo.image.process.densities import DENSITIES, shifted
from diffdpo.image.process.noise import Flow
from tests.image.test_noise import process


def flow(scheduler=None, tokens=256, turbo=False, **settings):
    scheduler = scheduler or diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return Flow(scheduler, ProcessSettings(**settings), tokens, turbo)


def times(process, count=4000):
    return np.array([process.timestep(np.random.default_rng(n)) for n in range(count)])


def test_a_flow_follows_the_schedulers_own_path():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    clean, noise = torch.randn(2, 3, 4, 2, 5, 5)
    timestep = scheduler.timesteps[[3, 500, 998]]
    process = flow(scheduler)
    expected = scheduler.scale_noise(clean, timestep, noise)
    assert torch.allclose(process.corrupt(clean, noise, timestep / 1000), expected, atol=1e-6)
    assert torch.equal(process.target(clean, noise, timestep), noise - clean)


@pytest.mark.parametrize("scheme", DENSITIES)
def test_a_density_of_t_is_that_of_its_source(scheme):
    found = times(flow(weighting_scheme=scheme, timestep_shift="none"))
    assert ((found > 0) & (found <= 1)).all()
    # diffusers' own density of u, which counts from noise to picture.
    torch.manual_seed(0)
    u = compute_density_for_timestep_sampling(scheme, 100_000, 0.0, 1.0, 1.29)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert np.quantile(found, share) == pytest.approx(
            1 - float(u.quantile(1 - share)), abs=0.03
        )


def test_a_positive_logit_mean_is_less_noise_as_in_the_scripts_of_diffusers():
    settings = {"weighting_scheme": "logit_normal", "timestep_shift": "none"}
    assert times(flow(**settings, logit_mean=1.0)).mean() < 0.4
    assert times(flow(**settings, logit_mean=-1.0)).mean() > 0.6
    assert times(flow(**settings, logit_std=0.1)).std() < 0.05


def test_the_shift_is_the_schedulers_and_made_once():
    # A quarter of the way down, the sigmas of a scheduler are the shifted 3/4 (and not twice).
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert shifted(0.75, flow(scheduler).shift) == pytest.approx(float(scheduler.sigmas[250]))
    assert np.median(times(flow(scheduler))) == pytest.approx(0.75, abs=0.02)
    for wanted, expected in (("none", 0.5), ("1", 0.5), ("2.5", shifted(0.5, 2.5))):
        found = times(flow(scheduler, timestep_shift=wanted))
        assert np.median(found) == pytest.approx(expected, abs=0.02)
    other = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=5.0
    )
    assert flow(other).shift == 5.0


@pytest.mark.parametrize(("kind", "tokens"), [("exponential", 4096), ("linear", 300)])
def test_dynamic_shifting_is_that_of_the_pipeline_at_the_training_resolution(kind, tokens):
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type=kind
    )
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    scheduler.set_timesteps(sigmas=np.array([0.9, 0.5]), mu=mu)
    assert shifted(0.5, flow(scheduler, tokens).shift) == pytest.approx(float(scheduler.sigmas[1]))


def test_a_range_and_the_steps_of_turbo_models():
    found = times(flow(timestep_range=[0.3, 0.6]))
    assert 0.3 <= found.min() < 0.32
    assert 0.58 < found.max() <= 0.6
    with pytest.raises(UserError, match="timestep_range"):
        flow(timestep_range=[0.0, 1e-9])
    steps = sorted({round(float(t), 6) for t in times(flow(turbo=True, timestep_shift="none"))})
    assert steps == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("name", "entries", "line"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 500}, "num_train_timesteps"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas"),
        ("FlowMatchEulerDiscreteScheduler", {"shift": -1.0}, "is no shift"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "prediction_type"),
        ("DDIMScheduler", {}, "none of flow models"),
        ("EDMEulerScheduler", {}, "not supported"),
    ],
)
def test_what_is_no_flow_is_refused(name, entries, line):
    with pytest.raises(UserError, match=line):
        flow(getattr(diffusers, name)(**entries))


def test_weights_make_the_error_of_a_flow_one_of_noise_or_picture():
    """Exact identities: ε̂ = x_t + (1−t) v̂ and x̂ = x_t − t v̂."""
    clean, noise, wrong = torch.randn(3, 5, 4, 3, 3, dtype=torch.float64)
    t = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    process = flow()
    noisy, target = process.corrupt(clean, noise, t), process.target(clean, noise, t)
    predicted, at = target + wrong, t.view(-1, 1, 1, 1)
    squared = wrong.square().mean(dim=(1, 2, 3))
    eps = (noisy + (1 - at) * predicted - noise).square().mean(dim=(1, 2, 3))
    x0 = (noisy - at * predicted - clean).square().mean(dim=(1, 2, 3))
    assert torch.allclose(flow(timestep_weight="eps").weight(t) * squared, eps)
    assert torch.allclose(flow(timestep_weight="x0").weight(t) * squared, x0)
    assert torch.allclose(flow(timestep_weight="elbo").weight(t) * t, 1 - t)
    assert flow().weight(t) is None


def test_beta_in_nats_is_what_the_bound_of_the_likelihood_is_multiplied_by():
    """At t = ½ the bound is the summed error, and beta times the score half the mean of it."""
    error = torch.rand(16, 8, 8, dtype=torch.float64)
    line = beta_in_units(2000.0, error.numel(), is_flow=True)
    bound = flow(timestep_weight="elbo").weight(torch.tensor([0.5])) * error.sum()
    nats = re.search(r"= (\S+) nats at t = 1/2", line)
    assert float(nats[1]) * bound.item() == pytest.approx(2000 * error.mean().item() / 2, rel=5e-3)
    assert "nats" not in beta_in_units(2000.0, error.numel(), is_flow=False)


def test_scores_of_a_flow_are_those_of_the_diffusion_that_it_is():
    """A diffusion at ᾱ is a flow at t = √(1−ᾱ) / (√ᾱ + √(1−ᾱ)), its x_t scaled by their sum."""
    diffusion, clean = process(), torch.randn(3, 4, 5, 5, dtype=torch.float64)
    noise, guess = torch.randn(2, 3, 4, 5, 5, dtype=torch.float64)
    timestep = torch.tensor([10, 400, 900])
    signal = diffusion.scheduler.alphas_cumprod.double()[timestep].sqrt()
    rest = (1 - signal.square()).sqrt()
    total, t = signal + rest, rest / (signal + rest)
    noisy = flow().corrupt(clean, noise, t)
    scaled = diffusion.corrupt(clean, noise, timestep) / total.view(-1, 1, 1, 1)
    assert torch.allclose(noisy, scaled, atol=1e-5)
    # The same guess of ε as a velocity: v̂ = (ε̂ − x_t) / (1 − t).
    velocity = (guess - noisy) / (1 - t).view(-1, 1, 1, 1)
    error = (velocity - flow().target(clean, noise, t)).square().mean(dim=(1, 2, 3))
    expected = (guess - diffusion.target(clean, noise, timestep)).square().mean(dim=(1, 2, 3))
    assert torch.allclose(flow(timestep_weight="eps").weight(t) * error, expected)
