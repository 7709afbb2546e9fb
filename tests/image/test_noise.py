"""The forward process against its equations."""

import numpy as np
import pytest
import torch

from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError
from diffdpo.image.noise import ForwardProcess, stack_normal
from tests.factory import scheduler


def process(prediction_type="epsilon", **changes):
    return ForwardProcess(scheduler(prediction_type).config, **changes)


def test_corruption_and_targets_are_the_published_equations():
    """√ᾱ x + √(1−ᾱ) ε, and v = √ᾱ ε − √(1−ᾱ) x, with ᾱ from the scaled-linear betas."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = torch.tensor(np.cumprod(1 - betas)[[5, 700]], dtype=torch.float32).view(2, 1, 1, 1)
    x, noise, t = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3), torch.tensor([5, 700])
    assert torch.allclose(
        process().corrupt(x, noise, t), alpha.sqrt() * x + (1 - alpha).sqrt() * noise, atol=1e-5
    )
    assert torch.equal(process().target(x, noise, t), noise)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x
    assert torch.allclose(process("v_prediction").target(x, noise, t), velocity, atol=1e-5)


def test_clean_latents_come_back_from_a_perfect_prediction():
    forward = process("v_prediction")
    x, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 300, 999])
    alpha = forward.scheduler.alphas_cumprod[t].view(3, 1, 1, 1)
    back = alpha.sqrt() * forward.corrupt(x, noise, t) - (1 - alpha).sqrt() * forward.target(
        x, noise, t
    )
    assert torch.allclose(back, x, atol=1e-5)


def test_timesteps_are_uniform_over_the_schedule():
    draws = np.array(
        [process().timestep(generator(0, Purpose.TIMESTEP, pair)) for pair in range(2000)]
    )
    assert draws.min() >= 0
    assert draws.max() <= 999
    assert np.abs(np.histogram(draws, 4, (0, 1000))[0] - 500).max() < 100  # 5 standard deviations


def test_turbo_trains_its_four_steps_and_ends_in_pure_noise():
    turbo = process(turbo=True)
    assert {turbo.timestep(generator(0, Purpose.TIMESTEP, pair)) for pair in range(99)} == {
        249,
        499,
        749,
        999,
    }
    assert turbo.scheduler.alphas_cumprod[-1] < 1e-6


def test_other_prediction_types_are_refused():
    with pytest.raises(UserError, match="sample"):
        process("sample")


def test_stacked_noise_is_one_generator_an_item():
    keys = [(0, Purpose.NOISE, pair, 0) for pair in (4, 9)]
    stacked = stack_normal([generator(*key) for key in keys], (2, 3))
    alone = stack_normal([generator(*keys[1])], (2, 3))
    assert torch.equal(stacked[1:], alone)
