"""Strengths and ranks of items from a comparisons file.

python scripts/fit_bradley_terry.py --comparisons games.csv --output ranking.json --plot ranking.png
"""

import sys

from diffdpo.__main__ import run_command

if __name__ == "__main__":
    sys.exit(run_command("fit_bradley_terry"))
