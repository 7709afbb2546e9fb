"""Text preference training: ``accelerate launch scripts/train_text_dpo.py [flags]``, bundled
reviews by default."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("train_text_dpo"))
