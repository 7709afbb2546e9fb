"""Strengths and ranks of items from a comparisons file.

python scripts/fit_bradley_terry.py --comparisons games.csv --output ranking.json --plot ranking.png
"""

import sys

from diffdpo.ranking.cli import main

if __name__ == "__main__":
    sys.exit(main())
