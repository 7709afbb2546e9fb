"""Scores of pictures, pairs or texts by rewards: ``python scripts/score.py --reward NAME …``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("score"))
