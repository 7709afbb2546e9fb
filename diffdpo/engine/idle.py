"""Settings of training that nothing reads beside the others, each with the reason."""

from __future__ import annotations

from typing import Protocol

# The schedules that read each of these.
READERS = {"lr_power": "polynomial", "lr_num_cycles": "cosine_with_restarts"}
OF_ADAMW = ["adam_beta1", "adam_beta2", "adam_epsilon"]
OF_UPLOADS = ["hub_model_id", "hub_revision", "hub_private_repo", "hub_token"]


class Flags(Protocol):
    """The settings that others depend on."""

    @property
    def lr_scheduler(self) -> str: ...
    @property
    def use_adafactor(self) -> bool: ...
    @property
    def rmsprop(self) -> bool: ...
    @property
    def keep_best(self) -> bool: ...
    @property
    def push_to_hub(self) -> bool: ...


def idle_in_training(settings: Flags) -> dict[str, str]:
    """The reasons by name, for images and text alike."""
    schedule = settings.lr_scheduler
    reasons = {
        name: f"it is that of --lr_scheduler {reader}"
        for name, reader in READERS.items()
        if schedule != reader
    }
    if schedule == "constant":
        reasons["lr_warmup_steps"] = "constant has no warm-up; constant_with_warmup has"
    if settings.use_adafactor or settings.rmsprop:
        reasons |= dict.fromkeys(OF_ADAMW, "it is AdamW's, and another optimizer is asked for")
    if not settings.keep_best:
        reasons["metric_for_best_model"] = "it belongs to --keep_best"
    if not settings.push_to_hub:
        reasons |= dict.fromkeys(OF_UPLOADS, "nothing is uploaded; add --push_to_hub")
    return reasons
