"""Our trainers beside others: ``python scripts/benchmark.py --peer-script THEIRS.py``."""

import sys

from diffdpo.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("benchmark", sys.argv[1:]))
