"""Several runs on one page: ``python scripts/compare.py RUN RUN [flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("compare"))
