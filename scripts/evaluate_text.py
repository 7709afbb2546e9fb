"""Language model against its reference: ``python scripts/evaluate_text.py --policy RUN
[flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("evaluate_text"))
