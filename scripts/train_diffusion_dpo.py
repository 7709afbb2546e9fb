"""Image preference training: ``accelerate launch scripts/train_diffusion_dpo.py [flags]``; no flags: the bundled data."""

import sys

from diffdpo.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train_diffusion_dpo", sys.argv[1:]))
