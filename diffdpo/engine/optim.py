"""Optimizer and learning-rate schedule.

The schedule is a pure function of the step, so that a checkpoint need not hold its state.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from diffdpo.engine.settings import SCHEDULES, TrainSettings
from diffdpo.errors import UserError, short


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings, notice: Callable[[str], None]
) -> torch.optim.Optimizer:
    """AdamW (fused), its 8-bit or paged form, Adafactor, or RMSprop as transformers makes it.

    Where bitsandbytes is missing, ``notice`` is told and AdamW with 32-bit state is used.

    Raises UserError for pages where there is no GPU, or no bitsandbytes.
    """
    if settings.use_adafactor:
        from transformers import Adafactor

        # Its own rate, relative to the weights and falling with time, would override the schedule.
        fixed_rate = {"scale_parameter": False, "relative_step": False}
        decay = settings.adam_weight_decay
        return Adafactor(
            parameters,
            lr=settings.learning_rate,
            weight_decay=decay,
            clip_threshold=1.0,
            **fixed_rate,
        )
    if settings.rmsprop:
        decay = settings.adam_weight_decay
        return torch.optim.RMSprop(parameters, lr=settings.learning_rate, weight_decay=decay)
    return adamw(settings, notice)(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.adam_weight_decay,
    )


def adamw(
    settings: TrainSettings, notice: Callable[[str], None]
) -> Callable[..., torch.optim.Optimizer]:
    """AdamW in the form that the settings ask for; see ``make_optimizer``."""
    if settings.use_paged_adam:
        return paged_adam(settings.use_8bit_adam)
    if settings.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit
        except ImportError:
            notice(
                "--use_8bit_adam: bitsandbytes is not installed (pip install bitsandbytes); using"
                " 32-bit AdamW"
            )
    return partial(torch.optim.AdamW, fused=True)


def paged_adam(eight_bit: bool) -> Callable[..., torch.optim.Optimizer]:
    """AdamW whose state is paged between GPU and host (Dettmers et al. 2023, arXiv 2305.14314).

    Raises UserError where there is no GPU, or no bitsandbytes.
    """
    if not torch.cuda.is_available():
        raise UserError("--use_paged_adam: needs a GPU, between which and the host it moves state")
    try:
        from bitsandbytes.optim import PagedAdamW, PagedAdamW8bit
    except ImportError as error:
        raise UserError(
            "--use_paged_adam: bitsandbytes is not installed (pip install bitsandbytes)"
        ) from error
    return PagedAdamW8bit if eight_bit else PagedAdamW


def make_schedule(
    settings: TrainSettings, total_steps: int, peak_rate: float
) -> Callable[[int], float]:
    """The factor on ``peak_rate`` as a function of the step, from 0 on: diffusers' schedules, and
    transformers' where it has more of them or is told more.

    Raises UserError for a peak below the rate at which the polynomial schedule ends, and for
    options that a schedule does not take.
    """
    # The peak is read from an optimizer: the polynomial schedule ends at a rate, 1e-7, and not at a
    # share of the peak. A dry run at rate 0 has no share of it to compute.
    carrier = torch.optim.SGD([torch.zeros(1)], lr=peak_rate or 1.0)
    name, options = settings.lr_scheduler, settings.schedule_options
    warmup = settings.warmup_steps(total_steps)
    try:
        if name not in SCHEDULES or options:
            return transformers_schedule(settings, carrier, warmup, total_steps)
        scheduler = get_scheduler(
            name,
            carrier,
            num_warmup_steps=warmup,
            num_training_steps=total_steps,
            num_cycles=settings.lr_num_cycles,
            power=settings.lr_power,
        )
    except (ValueError, TypeError, ArithmeticError) as error:
        reason = " ".join(str(error).split())
        what = f"--lr_scheduler_kwargs: {name}" if options else f"--lr_scheduler {name}"
        raise UserError(f"{what}: {short(reason, 200)}") from error
    return scheduler.lr_lambdas[0]


def transformers_schedule(
    settings: TrainSettings, carrier: torch.optim.Optimizer, warmup: int, total_steps: int
) -> Callable[[int], float]:
    """A schedule of transformers with its options.

    Raises ValueError, TypeError or ArithmeticError for options that it does not take.
    """
    from transformers import optimization

    name, options = settings.lr_scheduler, dict(settings.schedule_options)
    own = {"cosine_with_restarts": "num_cycles", "polynomial": "power"}
    made: Any = optimization.TYPE_TO_SCHEDULER_FUNCTION[optimization.SchedulerType(name)]
    common = {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    taken = inspect.signature(made).parameters.keys() - common
    if unknown := sorted(options.keys() - taken):
        known = ", ".join(sorted(taken)) or "none"
        raise ValueError(f"takes no {', '.join(unknown)}; known: {known}")
    if name in own:  # the flags of these two, unless the options say otherwise
        options.setdefault(own[name], getattr(settings, f"lr_{own[name]}"))
    scheduler = optimization.get_scheduler(
        name, carrier, warmup, total_steps, scheduler_specific_kwargs=options
    )
    schedule: Callable[[int], float] = scheduler.lr_lambdas[0]
    # Some options are read only when a rate is asked for.
    if not all(
        math.isfinite(schedule(step)) for step in (0, warmup, total_steps // 2, total_steps)
    ):
        raise ValueError("gives rates that are no finite numbers")
    return schedule
