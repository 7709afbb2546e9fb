"""Writes what a benchmark has found: its page, its numbers, its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffdpo.engine.files import atomic_file, write_atomically


def write_result(output: str | Path, **contents: str | bytes) -> None:
    """Write a file for each content, whole: ``md=...`` goes to OUTPUT.md."""
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    for ending, content in contents.items():
        path = Path(f"{output}.{ending}")
        if isinstance(content, str):
            write_atomically(path, content)
        else:
            with atomic_file(path) as draft:
                draft.write_bytes(content)


def json_of_rows(conditions: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What all rows have in common, and a line for each of them."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{{"conditions": {json.dumps(conditions)},\n "rows": [\n{lines}\n]}}\n'
