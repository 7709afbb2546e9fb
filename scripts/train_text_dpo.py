"""Text preference training: ``accelerate launch scripts/train_text_dpo.py --model_name_or_path M --dataset_name D``."""

import sys

from diffdpo.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("train_text_dpo", sys.argv[1:]))
