"""From prompts to pairs: ``accelerate launch scripts/make_pairs.py --prompts FILE [flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("make_pairs"))
