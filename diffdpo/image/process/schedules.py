"""The noise schedules that can be trained: which schedulers share one forward process.

A sampler may be exchanged for another one of the same family, for it changes how pictures are
drawn, not what the network learnt. A scheduler outside of it belongs to another process.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from diffusers import DDPMScheduler

from diffdpo.errors import UserError, short
from diffdpo.image.process import flow_schedules
from diffdpo.image.process.flow_schedules import FLOW_MATCH, check_flow_numbers, is_flow

# Schedulers of x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε at discrete timesteps, with ᾱ from betas.
SCHEDULERS = (
    *("DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "EulerDiscreteScheduler"),
    *("EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"),
    *("DDPMParallelScheduler", "DDIMParallelScheduler", "DPMSolverSinglestepScheduler"),
    *("DPMSolverSDEScheduler", "LMSDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "DEISMultistepScheduler"),
    *("SASolverScheduler", "LCMScheduler", "TCDScheduler"),
)
# Schedulers that shift the signal of these betas, as no other does: theirs is a process of its own.
SHIFTED = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler")
# What the process depends on; DDPMScheduler takes all of them, the shifted ones one more.
PROCESS = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas"),
    *("prediction_type", "rescale_betas_zero_snr"),
)
SHIFT = "snr_shift_scale"
# Entries under which the network is asked something else, and the one value that changes nothing.
OTHER_PROCESS = {"use_flow_sigmas": False, "timestep_type": "discrete"}
# Entries that say how pictures are drawn.
SAMPLING = {
    *("algorithm_type", "clip_sample", "clip_sample_range", "corrector_order", "disable_corrector"),
    *("dynamic_thresholding_ratio", "euler_at_final", "final_sigmas_type", "flow_shift"),
    *("interpolation_type", "lambda_min_clipped", "lower_order_final", "noise_sampler_seed"),
    *("original_inference_steps", "predict_x0", "predictor_order", "sample_max_value"),
    *("set_alpha_to_one", "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps"),
    *("solver_order", "solver_p", "solver_type", "steps_offset", "tau_func", "thresholding"),
    *("time_shift_type", "timestep_scaling", "timestep_spacing", "use_beta_sigmas"),
    *("use_dynamic_shifting", "use_exponential_sigmas", "use_karras_sigmas", "use_lu_lambdas"),
    *("variance_type", "tensor_format"),
}
MOST_TIMESTEPS = 100_000


def check_class(name: str) -> None:
    """Raises UserError for a scheduler of another forward process, or an unknown one."""
    every = (*SCHEDULERS, *SHIFTED, *FLOW_MATCH)
    if name not in every:
        known = ", ".join(name.removesuffix("Scheduler") for name in every)
        raise UserError(
            f"scheduler {short(name)} is not supported: its forward process is another one, or not"
            f" known (these are: {known})"
        )


def training_schedule(scheduler: Any, turbo: bool) -> Any:
    """The forward process of a pipeline's scheduler, with zero terminal SNR for turbo models.

    Raises UserError for a scheduler or an entry of its configuration that is not in the tables
    above, and for values that make no process.
    """
    name = type(scheduler).__name__
    check_class(name)
    if name in FLOW_MATCH:
        raise UserError(
            f"scheduler {name} is not supported by this network: it is one of flow models"
        )
    check_entries(scheduler)
    # By name, and not by ``from_config``: that drops the defaults of the scheduler's own class,
    # which are not those of DDPMScheduler.
    is_shifted = name in SHIFTED
    entries = (*PROCESS, SHIFT) if is_shifted else PROCESS
    process = {name: scheduler.config[name] for name in entries if name in scheduler.config}
    # Turbo models are sampled from pure noise, so their last timestep must carry no signal (Lin
    # et al. 2023).
    process |= {"rescale_betas_zero_snr": True} if turbo else {}
    check_numbers(process)
    try:
        schedule: Any = (type(scheduler) if is_shifted else DDPMScheduler)(**process)
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"scheduler: its betas cannot be made ({short(error)})") from error
    check_signal(schedule)
    return schedule


def check_flow_schedule(scheduler: Any) -> None:
    """Raises UserError unless a scheduler is one of flow models whose entries are all known."""
    check_class(type(scheduler).__name__)
    if not is_flow(scheduler):
        raise UserError(
            f"scheduler {type(scheduler).__name__} is none of flow models, and the network is one"
        )
    known = {*SAMPLING, *flow_schedules.SAMPLING, *flow_schedules.UNUSED}
    check_known(scheduler, {*known, "use_flow_sigmas", "prediction_type"})
    check_flow_numbers(scheduler)


def check_entries(scheduler: Any) -> None:
    """Raises UserError for an entry under which the network would be asked something else."""
    for name, value in given(scheduler).items():
        if name in OTHER_PROCESS and value != OTHER_PROCESS[name]:
            raise UserError(
                f"scheduler: {name} {short(value)} is not supported (only {OTHER_PROCESS[name]} is)"
            )
    shift = {SHIFT} if type(scheduler).__name__ in SHIFTED else set()
    check_known(scheduler, {*PROCESS, *OTHER_PROCESS, *SAMPLING, *shift})


def check_known(scheduler: Any, known: Set[str]) -> None:
    """Raises UserError for an entry of which nothing is known."""
    for name, value in given(scheduler).items():
        if name not in known:
            raise UserError(
                f"scheduler: nothing is known of {short(name)} ({short(value)}) in its"
                " configuration; if it changes pictures alone and not what the network learns, take"
                " it out of scheduler_config.json"
            )


def given(scheduler: Any) -> dict[str, Any]:
    """The entries of a scheduler's configuration that are not the defaults of its class."""
    # A newer diffusers writes entries that older ones do not know, mostly at their defaults.
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(type(scheduler).__init__).parameters.items()
    }
    return {
        name: value
        for name, value in scheduler.config.items()
        if not name.startswith("_") and not (name in defaults and defaults[name] == value)
    }


def check_numbers(process: Mapping[str, Any]) -> None:
    """Raises UserError for a prediction type or a number of timesteps that cannot be trained."""
    kind = process["prediction_type"]
    if kind not in ("epsilon", "v_prediction"):
        raise UserError(
            f"prediction type {short(repr(kind))} is not supported (epsilon, v_prediction are)"
        )
    check_timesteps(process)
    timesteps = process["num_train_timesteps"]
    betas = process["trained_betas"]
    if betas is not None and (count := np.size(betas)) != timesteps:
        raise UserError(f"scheduler: {count} trained_betas for {timesteps} num_train_timesteps")


def check_timesteps(config: Mapping[str, Any]) -> None:
    """Raises UserError for a number of timesteps that no process has."""
    timesteps = config.get("num_train_timesteps", 1000)  # the default of every class
    whole = isinstance(timesteps, int) and not isinstance(timesteps, bool)
    if not whole or not 1 < timesteps <= MOST_TIMESTEPS:
        raise UserError(
            f"scheduler: num_train_timesteps must lie between 2 and {MOST_TIMESTEPS:,}, got"
            f" {short(timesteps)}"
        )


def check_signal(schedule: Any) -> None:
    """Raises UserError unless betas lie in [0, 1] and leave less signal with every step."""
    betas, alphas = schedule.betas, schedule.alphas_cumprod
    # Comparisons with NaN are false.
    inside = bool(((betas >= 0) & (betas <= 1)).all())
    if not (inside and alphas.isfinite().all() and alphas[0] > alphas[-1]):
        ends = f"{short(schedule.config.beta_start)} to {short(schedule.config.beta_end)}"
        raise UserError(
            f"scheduler: its betas ({short(schedule.config.beta_schedule)}, {ends}) are no noise"
            " schedule; they must lie between 0 and 1"
        )
