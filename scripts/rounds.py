"""Pairs, training, judging, and again: ``python scripts/rounds.py --config rounds.yaml``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("rounds"))
