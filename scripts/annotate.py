"""People choose: ``python scripts/annotate.py PAIRS --output_dir OUT [flags]``."""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("annotate"))
