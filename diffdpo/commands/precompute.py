"""Computes what training runs read from disk, beforehand; the flags are those of the trainers."""

from __future__ import annotations

from dataclasses import replace

from diffdpo.commands.train_diffusion_dpo import prepare_encodings, prepare_images
from diffdpo.commands.train_text_dpo import prepare_text
from diffdpo.config import checked
from diffdpo.engine.accelerator import make_accelerator
from diffdpo.engine.run_folder import end
from diffdpo.engine.settings import TrainSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings


def main(settings: TrainSettings) -> int:
    """Compute and store; returns the exit code.

    For images these are latents, prompt embeddings and, with ``--reference_draws``, reference
    scores; for text the reference's log-probabilities.
    """
    # By the trainers' own preparation: the tables are the ones that they look for.
    accelerator = make_accelerator(settings)
    if isinstance(settings, TextSettings):
        prepare_text(checked(replace(settings, precompute_ref_log_probs=True)), accelerator)
    elif isinstance(settings, ImageSettings):
        settings = checked(replace(settings, cache_latents=True))
        # The network is loaded for scores alone.
        prepare = prepare_images if settings.reference_draws else prepare_encodings
        prepare(settings, accelerator)
    end(accelerator)
    return 0
