"""What training runs compute once, computed beforehand; the flags are those of the trainers."""

from __future__ import annotations

from diffdpo.commands import train_diffusion_dpo, train_text_dpo
from diffdpo.engine.accelerator import make_accelerator
from diffdpo.engine.console import say
from diffdpo.engine.run_folder import end


def main(argv: list[str]) -> int:
    """Latents, prompt embeddings and, with ``--reference_draws``, reference scores; of a language
    model (``--model_name_or_path``) the reference's log-probabilities. Returns the exit code."""
    if any(word.startswith("--model_name_or_path") for word in argv):
        text, notices = train_text_dpo.read_settings([*argv, "--precompute_ref_log_probs"])
        say(*notices)
        accelerator = make_accelerator(text)
        train_text_dpo.prepare(text, accelerator)
    else:
        images, notices = train_diffusion_dpo.read_settings([*argv, "--cache_latents"])
        say(*notices)
        accelerator = make_accelerator(images)
        train_diffusion_dpo.prepare(images, accelerator)
    end(accelerator)
    return 0
