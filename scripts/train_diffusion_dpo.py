"""Image preference training: ``accelerate launch scripts/train_diffusion_dpo.py [flags]``, bundled
data by default."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("train_diffusion_dpo"))
