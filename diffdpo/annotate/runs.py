"""Pictures of several runs at the same prompts and seeds, as pairs of runs.

A folder of samples holds ``samples.jsonl``, one line for each picture: {"policy": the run's name,
"prompt", "prompt_index", "seed", "file": the picture, relative to the folder}.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.annotate.media import Media, as_bytes, shown
from diffdpo.annotate.pairs import MODELS, picture_row
from diffdpo.annotate.settings import SAMPLES
from diffdpo.cache.keys import digest
from diffdpo.data.places import Place
from diffdpo.engine.labels import REFERENCE
from diffdpo.errors import UserError, short
from diffdpo.image.pictures.marks import content

Key = tuple[str, int]  # prompt and seed


@dataclass(frozen=True)
class Samples:
    """The pictures of one policy, by prompt and seed; ``place`` is their folder."""

    name: str
    place: Place
    files: dict[Key, str]

    def mark(self, key: Key) -> bytes:
        """The same, or the name of a picture that cannot be read."""
        return content(self.files[key], self.place.file)

    def content(self, key: Key) -> bytes:
        """The bytes of a picture. Raises BadImage."""
        return as_bytes(self.files[key], self.place.file)


def read_samples(folder: Path) -> list[Samples]:
    """The pictures of each policy in a folder. Raises UserError where the file cannot be read."""
    path, found = folder / SAMPLES, dict[str, dict[Key, str]]()
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({short(error)})") from error
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()  # half a character is no text
            key = str(record["prompt"]), int(record["seed"])
            found.setdefault(str(record["policy"]), {})[key] = str(record["file"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            reason = short(f"{type(error).__name__}: {error}")
            raise UserError(f"{path}: line {number} names no picture ({reason})") from error
    return [Samples(name, Place.of(str(folder)), files) for name, files in found.items()]


def all_samples(folders: Sequence[Path]) -> list[Samples]:
    """The policies of all folders.

    Of several folders the reference is left out where it stands beside a policy: the folders are
    named to compare these. Policies of one name with the same pictures are one; those with others
    get the names of their folders as well.
    """
    found = [(folder, samples) for folder in folders for samples in read_samples(folder)]
    if len(folders) > 1:
        beside = {folder for folder, samples in found if samples.name != REFERENCE}
        found = [(f, s) for f, s in found if s.name != REFERENCE or f not in beside]
    kept: list[tuple[Path, Samples]] = []
    for folder, samples in found:
        if not any(alike(samples, other) for _, other in kept):
            kept.append((folder, samples))
    times = Counter(samples.name for _, samples in kept)
    named = [
        replace(samples, name=f"{samples.name} ({folder.name})") if times[samples.name] > 1
        else samples
        for folder, samples in kept
    ]  # fmt: skip
    names = {samples.name for samples in named}
    if len(names) < len(named):
        raise UserError(
            f"{short(', '.join(map(str, folders)))}: two have one name; rename a folder"
        )
    return named


def alike(one: Samples, other: Samples) -> bool:
    """Whether two policies have one name and the same pictures, as far as both have them."""
    common = one.files.keys() & other.files.keys()
    if one.name != other.name or not common:
        return False
    return all(one.mark(key) == other.mark(key) for key in common)


class RunPairs:
    """Every two policies on every prompt and seed that both have."""

    def __init__(self, samples: Sequence[Samples]) -> None:
        self.samples = {one.name: one for one in samples}
        self.runs = tuple(self.samples)
        self.scores: dict[str, np.ndarray] = {}
        self.pairs: list[tuple[Key, str, str]] = []
        digests = {(s.name, key): digest(s.mark(key)) for s in samples for key in s.files}
        equal = 0
        for one, other in combinations(samples, 2):
            for key in one.files:
                if key not in other.files:
                    continue
                if digests[one.name, key] == digests[other.name, key]:
                    equal += 1
                else:
                    self.pairs.append((key, one.name, other.name))
        if not self.pairs:
            why = "they share no prompt with a seed" if len(samples) > 1 else "one run alone"
            why = "all their pictures are equal" if equal else why
            raise UserError(f"{short(', '.join(self.runs))}: nothing to choose; {why}")
        self.skipped = [f"{equal} pairs of equal pictures are left out"] if equal else []
        self.what = f"pairs of {len(self.runs)} runs: {short(', '.join(self.runs), 200)}"
        names = [f"{name} {key}" for name, key in digests]
        self.fingerprint = digest(*names, *digests.values())

    def __len__(self) -> int:
        return len(self.pairs)

    def prompt(self, pair: int) -> str:
        return self.pairs[pair][0][0]

    def names(self, pair: int) -> tuple[str, str]:
        return self.pairs[pair][1:]

    def show(self, pair: int) -> list[dict[str, str]]:
        return [{"kind": "image"}, {"kind": "image"}]

    def media(self, pair: int, side: int) -> Media:
        key, *names = self.pairs[pair]
        samples = self.samples[names[side]]
        return shown(samples.files[key], samples.place.file)

    def row(self, pair: int, first_wins: float, votes: int) -> dict[str, Any]:
        key, *names = self.pairs[pair]
        both = [self.samples[name].content(key) for name in names]
        row = picture_row(("jpg_0", "jpg_1"), both, key[0], first_wins, votes)
        return {**row, **dict(zip(MODELS, names, strict=True))}
