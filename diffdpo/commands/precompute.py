"""What training runs compute once, computed beforehand; the flags are those of the trainers."""

from __future__ import annotations

from dataclasses import replace

from diffdpo.commands.train_diffusion_dpo import prepare_images
from diffdpo.commands.train_text_dpo import prepare_text
from diffdpo.config import TrainSettings, checked
from diffdpo.engine.accelerator import make_accelerator
from diffdpo.engine.run_folder import end
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings


def main(settings: TrainSettings) -> int:
    """Latents, prompt embeddings and, with ``--reference_draws``, reference scores; of a language
    model the reference's log-probabilities. Returns the exit code."""
    accelerator = make_accelerator(settings)
    if isinstance(settings, TextSettings):
        prepare_text(checked(replace(settings, precompute_ref_log_probs=True)), accelerator)
    elif isinstance(settings, ImageSettings):
        prepare_images(checked(replace(settings, cache_latents=True)), accelerator)
    end(accelerator)
    return 0
