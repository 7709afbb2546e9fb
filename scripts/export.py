"""A checkpoint as a result: ``python scripts/export.py RUN --step N [flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("export"))
