"""Our trainers beside others: ``python scripts/benchmark --peer-script THEIRS.py``."""

import sys
from pathlib import Path

# Python puts this folder on the path. The modules import each other as scripts.benchmark.*, and
# their short names (size, work, report) must not hide anybody else's.
sys.path[0] = str(Path(__file__).resolve().parents[2])

if __name__ == "__main__":
    from diffdpo.cli import run_command

    sys.exit(run_command("command", sys.argv[1:], package="scripts.benchmark"))
