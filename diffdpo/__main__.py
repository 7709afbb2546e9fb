"""``python -m diffdpo COMMAND …``, which is also what ``accelerate launch -m diffdpo`` runs."""

import sys

from diffdpo.entry import main

if __name__ == "__main__":
    sys.exit(main())
