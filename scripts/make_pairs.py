"""Sampled pairs labelled by a reward: ``python scripts/make_pairs.py --reward NAME [flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("make_pairs"))
