"""The forward process against its equations."""

import math
import re

import diffusers
import numpy as np
import pytest
import torch

from diffdpo.cli import run_command
from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError
from diffdpo.image.process.noise import Diffusion, stack_normal, whole_timesteps
from diffdpo.image.process.schedules import PROCESS, SCHEDULERS, SHIFTED
from tests.commands.image_runs import flags, train
from tests.factory import scheduler


def process(prediction_type="epsilon", **changes):
    return Diffusion(scheduler(prediction_type), **changes)


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


INSTALLED = [name for name in SCHEDULERS if name != "DPMSolverSDEScheduler"]  # needs torchsde
SCHEDULES = [
    {},  # each class has defaults of its own
    {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    {"trained_betas": np.linspace(0.01, 0.3, 40).tolist(), "num_train_timesteps": 40},
]


@pytest.mark.parametrize("changes", SCHEDULES)
@pytest.mark.parametrize("name", INSTALLED)
def test_every_scheduler_of_the_table_keeps_its_own_signal(name, changes):
    """ᾱ and the prediction type are those by which the pipeline samples."""
    own = getattr(diffusers, name)(**changes)
    forward = Diffusion(own)
    assert forward.timesteps == own.config.num_train_timesteps
    assert forward.prediction_type == own.config.prediction_type
    assert torch.allclose(forward.scheduler.alphas_cumprod, own.alphas_cumprod.float(), atol=1e-6)


def test_zero_terminal_snr_of_the_configuration_is_kept():
    zero = diffusers.DDIMScheduler(rescale_betas_zero_snr=True)
    assert Diffusion(zero).scheduler.alphas_cumprod[-1] < 1e-6
    # The class does not know the entry, which says what the network was trained on.
    other = diffusers.PNDMScheduler.from_config({**zero.config, "_use_default_values": []})
    assert Diffusion(other).scheduler.alphas_cumprod[-1] < 1e-6


def foreign():
    """Schedulers of diffusers that are not in the table, with any defaults that they have."""
    names = [name for name in dir(diffusers) if name.endswith("Scheduler")]
    for name in sorted(set(names) - {*SCHEDULERS, *SHIFTED}):
        try:
            yield getattr(diffusers, name)()
        except (ImportError, TypeError):  # no torchsde; a base class
            continue


def test_every_other_scheduler_of_diffusers_is_refused_by_name():
    others = list(foreign())
    assert {"EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"} <= {
        type(other).__name__ for other in others
    }
    for other in others:
        with pytest.raises(UserError, match=rf"{type(other).__name__} is not supported"):
            Diffusion(other)


def test_new_entries_of_known_schedulers_do_not_pass_unseen():
    """The tables hold every entry of every class: a new one is to be read before it is added."""
    import inspect

    from diffdpo.image.process.schedules import OTHER_PROCESS, SAMPLING

    known = {*PROCESS, *OTHER_PROCESS, *SAMPLING, "self"}
    for name in INSTALLED:
        assert set(inspect.signature(getattr(diffusers, name).__init__).parameters) <= known


@pytest.mark.parametrize(
    ("name", "entries", "line"),
    [
        ("DDIMScheduler", {"prediction_type": "sample"}, r"prediction type 'sample' is not"),
        (
            "DPMSolverMultistepScheduler",
            {"prediction_type": "flow_prediction"},
            "'flow_prediction'",
        ),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True}, "use_flow_sigmas True is not"),
        ("EulerDiscreteScheduler", {"timestep_type": "continuous"}, "timestep_type continuous"),
        ("DDIMScheduler", {"snr_shift_scale": 3.0}, "nothing is known of snr_shift_scale"),
        ("DDIMScheduler", {"beta_end": float("nan")}, "no noise schedule"),
        ("DDIMScheduler", {"beta_end": 1.5}, "no noise schedule"),
        ("DDIMScheduler", {"beta_start": 0.0, "beta_end": 0.0}, "no noise schedule"),
        ("DDPMScheduler", {"num_train_timesteps": 0}, "must lie between 2 and"),
        ("DDPMScheduler", {"num_train_timesteps": 1000, "trained_betas": [0.1]}, "1 trained_betas"),
    ],
)
def test_a_configuration_of_another_process_is_refused(name, entries, line):
    config = {**scheduler("epsilon").config, **entries, "_use_default_values": []}
    with pytest.raises(UserError, match=line):
        Diffusion(getattr(diffusers, name).from_config(config))


def test_entries_that_draw_pictures_are_free():
    config = {**scheduler("epsilon").config, "use_karras_sigmas": True, "skip_prk_steps": True}
    dpm = diffusers.DPMSolverMultistepScheduler.from_config(config)
    assert torch.equal(Diffusion(dpm).scheduler.alphas_cumprod, process().scheduler.alphas_cumprod)


def test_a_turbo_model_needs_its_four_steps():
    with pytest.raises(UserError, match="needs 4 timesteps"):
        Diffusion(diffusers.DDPMScheduler(num_train_timesteps=3), turbo=True)


@pytest.mark.parametrize(
    ("turbo", "bounds", "timesteps"),
    [
        (False, (0.0, 1.0), range(1000)),
        (False, (0.7, 1.0), range(700, 1000)),  # the three noisiest deciles
        (False, (0.0, 0.3), range(300)),
        (True, (0.0, 1.0), [249, 499, 749, 999]),
        (True, (0.5, 1.0), [749, 999]),
    ],
)
def test_timesteps_are_drawn_within_their_bounds_each_as_often(turbo, bounds, timesteps):
    own = process(turbo=turbo, bounds=bounds).timestep
    drawn = [own(generator(0, Purpose.TIMESTEP, pair)) for pair in range(4000)]
    assert set(drawn) <= set(timesteps)
    if turbo:
        assert set(drawn) == set(timesteps)
    else:  # ends and middle, each within five deviations
        low, high = timesteps[0], timesteps[-1]
        assert min(drawn) - low < 10
        assert high - max(drawn) < 10
        width = high - low
        assert abs(np.mean(drawn) - (low + high) / 2) < 5 * width / math.sqrt(12 * len(drawn))


def test_parts_of_the_process_that_meet_share_no_timestep():
    parts = [whole_timesteps(1000, False, bounds) for bounds in ((0.0, 0.37), (0.37, 1.0))]
    assert [*parts[0], *parts[1]] == list(range(1000))
    with pytest.raises(UserError, match=r"--timestep_range 0.3 0.4: none of the 4 timesteps"):
        whole_timesteps(1000, True, (0.3, 0.4))


def test_stacked_noise_is_one_generator_an_item():
    keys = [(0, Purpose.NOISE, pair, 0) for pair in (4, 9)]
    stacked = stack_normal([generator(*key) for key in keys], (2, 3))
    alone = stack_normal([generator(*keys[1])], (2, 3))
    assert torch.equal(stacked[1:], alone)


def test_a_diffusion_run_meets_the_timesteps_of_its_range(models, pairs, tmp_path, capsys):
    met = []

    class Watched(Diffusion):
        def corrupt(self, latents, noise, timestep_N):
            met.extend(timestep_N.tolist())
            return super().corrupt(latents, noise, timestep_N)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffdpo.image.process.processes.Diffusion", Watched)
        train(*flags(models(), pairs, tmp_path / "run", timestep_range=[0.7, 1]))
    assert met
    assert min(met) >= 700
    assert re.search(r"\nt +uniform in 0.7 to 1 of the timesteps", capsys.readouterr().out)


def test_what_only_flows_know_is_refused_for_a_diffusion_model(models, pairs, tmp_path, capsys):
    words = flags(models(), pairs, tmp_path / "run", logit_mean=1.0, timestep_weight="elbo")
    assert run_command("train_diffusion_dpo", [str(word) for word in words]) == 2
    line = capsys.readouterr().err
    assert "--logit_mean --timestep_weight: for flow models alone" in line
