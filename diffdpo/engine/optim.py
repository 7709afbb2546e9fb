"""Optimizer and learning-rate schedule; the schedule is a pure function of the step, so it needs no
checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from diffusers.optimization import get_scheduler
from torch import nn

from diffdpo.config import TrainSettings


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: TrainSettings, notice: Callable[[str], None]
) -> torch.optim.Optimizer:
    """AdamW (fused), its 8-bit form or Adafactor. Says so where bitsandbytes is asked for and
    missing."""
    if settings.use_adafactor:
        from transformers import Adafactor

        fixed_rate = {"scale_parameter": False, "relative_step": False}
        decay = settings.adam_weight_decay
        return Adafactor(
            parameters,
            lr=settings.learning_rate,
            weight_decay=decay,
            clip_threshold=1.0,
            **fixed_rate,
        )
    adamw: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
    options: dict[str, object] = {"fused": True}
    if settings.use_8bit_adam:
        try:
            from bitsandbytes.optim import AdamW8bit

            adamw, options = AdamW8bit, {}
        except ImportError:
            notice(
                "--use_8bit_adam: bitsandbytes is not installed (pip install bitsandbytes); using"
                " 32-bit AdamW"
            )
    return adamw(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        weight_decay=settings.adam_weight_decay,
        **options,
    )


def make_schedule(settings: TrainSettings, total_steps: int) -> Callable[[int], float]:
    """What the peak rate is multiplied with at step 0, 1, …: diffusers' schedules as plain
    functions."""
    carrier = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = get_scheduler(
        settings.lr_scheduler,
        carrier,
        num_warmup_steps=settings.lr_warmup_steps,
        num_training_steps=total_steps,
        num_cycles=settings.lr_num_cycles,
        power=settings.lr_power,
    )
    return scheduler.lr_lambdas[0]
