"""The schedulers of flow models, x_t = (1−t) x_0 + t ε, and the shift of t that they sample with.

The class alone does not tell: some schedulers serve both processes, and an entry decides.
"""

from __future__ import annotations

import math
from typing import Any

from diffdpo.errors import UserError, short

FLOW_MATCH = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
# Schedulers of the other process that are of this one under ``use_flow_sigmas``.
WITH_FLOW_SIGMAS = (
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "SASolverScheduler"),
)
TIMESTEPS = 1000  # t = 1 of every family's network
# Entries that say how pictures are drawn, beside those of ``schedules.SAMPLING``.
SAMPLING = {
    *("base_image_seq_len", "base_shift", "flow_shift", "max_image_seq_len", "max_shift"),
    *("shift", "shift_terminal", "stochastic_sampling", "time_shift_type", "use_dynamic_shifting"),
}
# Of these schedulers' own process, which under ``use_flow_sigmas`` is not used.
UNUSED = {
    *("beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    "timestep_type",
}


def is_flow(scheduler: Any) -> bool:
    """Whether a scheduler is one of flow models, by the tables above."""
    name = type(scheduler).__name__
    with_sigmas = name in WITH_FLOW_SIGMAS and scheduler.config.get("use_flow_sigmas", False)
    return name in FLOW_MATCH or bool(with_sigmas)


def check_flow_numbers(scheduler: Any) -> None:
    """Raises UserError for entries under which the network would be asked something else."""
    config = scheduler.config
    for name, wanted in (("num_train_timesteps", TIMESTEPS), ("invert_sigmas", False)):
        if config.get(name, wanted) != wanted:
            raise UserError(
                f"scheduler: {name} {short(config[name])} is not supported for flow models (only"
                f" {wanted} is)"
            )
    if "prediction_type" in config and config["prediction_type"] != "flow_prediction":
        raise UserError(
            f"scheduler: use_flow_sigmas with prediction_type {short(config['prediction_type'])} is"
            " not supported (only flow_prediction is)"
        )


def scheduler_shift(scheduler: Any, tokens: int) -> float:
    """The shift with which a scheduler samples pictures of so many tokens.

    Dynamic shifting is linear in the tokens, on a logarithmic scale unless ``time_shift_type`` says
    otherwise. Raises UserError for numbers that are no shift.
    """
    config = scheduler.config
    if config.get("use_dynamic_shifting", False):
        low, high = config["base_image_seq_len"], config["max_image_seq_len"]
        slope = (config["max_shift"] - config["base_shift"]) / (high - low)
        mu = config["base_shift"] + slope * (tokens - low)
        shift = mu if config["time_shift_type"] == "linear" else math.exp(mu)
    else:
        # Not what is in ``scheduler.sigmas``: those are shifted already.
        shift = config["shift"] if "shift" in config else config.get("flow_shift", 1.0)
    if not (isinstance(shift, (int, float)) and 0 < shift < math.inf):
        raise UserError(f"scheduler: {short(shift)} is no shift; say --timestep_shift")
    return float(shift)
