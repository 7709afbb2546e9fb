"""Our trainers beside others: ``python scripts/benchmark --peer-script THEIRS.py``."""

import sys
from pathlib import Path

# Python puts this folder on the path. The modules import each other as scripts.benchmark.*, and
# their short names (size, work, report) must not hide anybody else's.
sys.path[0] = str(Path(__file__).resolve().parents[2])

if __name__ == "__main__":
    from diffdpo.cli import Command, run

    command = Command(
        purpose="times and memory beside other trainers",
        settings="scripts.benchmark.command:BenchmarkSettings",
        example="--peer-script train_diffusion_dpo.py --peer-script train.py",
    )
    sys.exit(run(command, "scripts.benchmark.command", "python scripts/benchmark", sys.argv[1:]))
