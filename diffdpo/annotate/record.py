"""pairs.json: which pairs the votes of a folder are on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffdpo.annotate.pairs import Pairs
from diffdpo.annotate.votes import FILE as VOTES
from diffdpo.engine.files import write_atomically
from diffdpo.errors import UserError, short

FILE = "pairs.json"


def record(pairs: Pairs, seed: int) -> dict[str, Any]:
    """What must be the same for votes to mean what they meant; sides depend on the seed."""
    return {"pairs": len(pairs), "fingerprint": pairs.fingerprint, "seed": seed}


def check_record(folder: Path, pairs: Pairs, seed: int) -> None:
    """Raises UserError where the folder has votes on other pairs, or under another seed."""
    path, ours = folder / FILE, record(pairs, seed)
    if not path.is_file():
        if (folder / VOTES).is_file():
            raise UserError(f"{folder}: holds {VOTES} and no {FILE}, which says on which pairs")
        return
    try:
        theirs = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({short(error)})") from error
    if theirs.get("seed") != seed:
        raise UserError(
            f"--seed {seed}: the votes in {folder} were begun with {short(theirs.get('seed'))};"
            " take that, or another --output_dir"
        )
    if any(theirs.get(name) != value for name, value in ours.items()):
        raise UserError(
            f"--output_dir {folder}: its votes are on other pairs"
            f" ({short(theirs.get('what'), 200)}); take another folder"
        )


def write_record(folder: Path, pairs: Pairs, seed: int) -> None:
    """Write down which pairs they are. Raises UserError where the disk does not take it."""
    content = {**record(pairs, seed), "what": pairs.what}
    write_atomically(folder / FILE, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
