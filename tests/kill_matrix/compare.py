"""What a run leaves, in a form in which two runs can be compared."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from tests.runs import TIMED


def left_by(folder: Path) -> dict[str, str]:
    """A digest of every weights file and shard, of the metrics without timings; and leftovers."""
    files = [*folder.rglob("*.safetensors"), *folder.rglob("*.arrow"), *folder.rglob("key.json")]
    found = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if ".abandoned" not in str(path)
    }
    if (folder / "metrics.jsonl").exists():
        found["metrics.jsonl"] = metrics(folder / "metrics.jsonl")
    # Drafts and locks of the killed processes; the last run must have removed them.
    return found | {str(p.relative_to(folder)): "left" for p in folder.rglob(".*") if p.is_file()}


def metrics(path: Path) -> str:
    """The lines of metrics.jsonl without timings."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [{k: v for k, v in record.items() if k not in TIMED} for record in records]
    return json.dumps(kept)


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The names that two runs do not have in common, or with other content."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
