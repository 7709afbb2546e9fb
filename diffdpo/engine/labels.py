"""Names of the results that an evaluation compares, in folders and figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from diffdpo.engine.run_config import is_checkpoint

REFERENCE = "reference"
UNFIT = re.compile(r"[^\w.+-]+")
LONGEST = 48  # letters of a label


def labels(runs: Sequence[str]) -> list[str]:
    """A name for each run that can be one of a folder: that of its own folder, with those above it
    where several are called alike."""
    found: list[str] = []
    for run in runs:
        parts = [UNFIT.sub("-", part).strip("-.") for part in Path(run).resolve().parts]
        parts = [part for part in parts if part]
        # A checkpoint's own name says little.
        least = 2 if is_checkpoint(Path(run)) else 1
        names = ["-".join(parts[-count:])[-LONGEST:] for count in range(least, len(parts) + 1)]
        taken = {REFERENCE, *(name.casefold() for name in found)}
        free = [name for name in names if name.casefold() not in taken]
        stem = names[0] if names else "policy"
        numbered = (f"{stem}-{number}" for number in range(2, len(runs) + 3))
        free += [name for name in numbered if name.casefold() not in taken]
        found.append(free[0])
    return found
