"""Latents, embeddings and reference scores, once: ``accelerate launch scripts/precompute.py [the
trainer's flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("precompute"))
