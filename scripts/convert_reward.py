"""A reward's official file as a folder: ``python scripts/convert_reward.py NAME FILE FOLDER``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("convert_reward"))
