"""Folders with pictures of runs, as an evaluation leaves them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.factory import encoded, picture


def sample_folder(
    folder: Path, policies: Sequence[str], prompts: int = 3, times: int = 2, shift: int = 0
) -> Path:
    """Pictures of each policy, which differ by policy and by ``shift``; "base" never does."""
    lines = []
    for number, name in enumerate(policies):
        for place in range(prompts * times):
            prompt, again = divmod(place, times)
            file = f"samples/{name}/{prompt:05d}-{again}.png"
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            made = place if name == "base" else 1000 * (number + 1) + shift + place
            path.write_bytes(encoded(picture(made)))
            lines.append({"policy": name, "prompt": f"prompt {prompt}", "prompt_index": prompt,
                          "seed": 100 + place, "file": file})  # fmt: skip
    (folder / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return folder
