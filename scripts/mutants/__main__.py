"""``python scripts/mutants --modules draws losses --max 40``"""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])  # imports are scripts.mutants.*

if __name__ == "__main__":
    from scripts.mutants.command import main

    sys.exit(main(sys.argv[1:]))
