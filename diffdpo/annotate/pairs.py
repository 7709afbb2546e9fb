"""The pairs that people choose in: pictures and clips of a data set, and texts. Pairs of runs are
in ``runs.py``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from datasets import Dataset, Value

from diffdpo.annotate.media import Media, is_video_file, shown, stored
from diffdpo.cache.keys import digest
from diffdpo.data.cells import BadImage, Find
from diffdpo.data.made_pairs import SIDES
from diffdpo.data.source import FOLDER
from diffdpo.data.text import detect
from diffdpo.data.text.messages import BadRow, Text
from diffdpo.data.text.record import Record, as_bad_row
from diffdpo.data.text.schema import Example
from diffdpo.errors import UserError
from diffdpo.image.reading.pairs import ImagePairs
from diffdpo.image.reading.tally import too_many

MODELS = ("model_0", "model_1")  # columns of Pick-a-Pic
NUMBERS = ("float64", "float32", "float16", "int64", "int32", "int16", "int8")
NO_SCORES = ("label", "seed", "candidate")
CERTAIN = 40.0  # σ(40) is 1 in double precision


class Pairs(Protocol):
    """Pairs by number. Side 0 is the first item of a pair, side 1 the second."""

    what: str  # for a line: "image pairs of DATA"
    fingerprint: str
    runs: tuple[str, ...]  # what is compared, where that is a few runs
    scores: dict[str, np.ndarray]  # of the first item over the second, by the name of the score
    skipped: list[str]  # a line for what was left out

    def __len__(self) -> int: ...

    def prompt(self, pair: int) -> str:
        """The prompt of a pair."""

    def names(self, pair: int) -> tuple[str, str]:
        """What its two items are called in votes and comparisons."""

    def show(self, pair: int) -> list[dict[str, str]]:
        """The kind of both items ("image", "video" or "text"), and the text of a text."""

    def media(self, pair: int, side: int) -> Media:
        """The picture or video of an item. Raises BadImage."""

    def row(self, pair: int, first_wins: float, votes: int) -> dict[str, Any]:
        """The pair in the training schema, with P(first ≻ second). Raises BadImage."""


class PicturePairs:
    """The pairs of a data set of images or videos, ties and unlabelled ones as well; those of
    rankings are each two of their pictures."""

    runs: tuple[str, ...] = ()

    def __init__(self, dataset: Dataset, pairs: ImagePairs, what: str) -> None:
        ranked = pairs.ranked is not None
        # Who labels anew asks for no labels; a ranking that cannot be read has no pair.
        all_rows = np.arange(len(pairs.first_wins))
        pairs.rows = all_rows[~np.isnan(pairs.first_wins)] if ranked else all_rows
        self.pairs, self.what = pairs, what
        self.fingerprint = pairs.fingerprint
        self.scores = {} if ranked else score_gaps(dataset)
        there = set(MODELS) <= set(dataset.column_names) and not ranked
        self.models = [dataset[column][:] for column in MODELS] if there else None
        left = len(all_rows) - len(pairs.rows)
        self.skipped = [f"{left} rankings cannot be read"] if left else []
        self.video = "video" in pairs.format.first

    def __len__(self) -> int:
        return len(self.pairs.rows)

    def prompt(self, pair: int) -> str:
        return self.pairs.captions[self.pairs.rows[pair]]

    def stored(self, pair: int, side: int) -> tuple[Any, Find]:
        """What the cell of an item holds, and how to find a file that it names. Raises BadImage."""
        row, images = int(self.pairs.rows[pair]), self.pairs.stored
        one = images.sides[side]
        return one.cell(row), images.find(one.at(row))

    def names(self, pair: int) -> tuple[str, str]:
        if self.models is not None:
            first, second = (str(column[pair]) for column in self.models)
            return first, second
        # A digest, so that a picture that stands in several rows is one item.
        found = self.pairs.stored.contents(int(self.pairs.rows[pair]))
        found = found or [f"{pair}-{side}".encode() for side in (0, 1)]
        first, second = (digest(content) for content in found)
        return first, second

    def show(self, pair: int) -> list[dict[str, str]]:
        kinds = []
        for side in (0, 1):
            try:
                video = is_video_file(*self.stored(pair, side))
            except BadImage:
                video = False
            kinds.append({"kind": "video" if video else "image"})
        return kinds

    def media(self, pair: int, side: int) -> Media:
        return shown(*self.stored(pair, side))

    def row(self, pair: int, first_wins: float, votes: int) -> dict[str, Any]:
        both = [stored(*self.stored(pair, side)) for side in (0, 1)]
        names = ("video_0", "video_1") if self.video else ("jpg_0", "jpg_1")
        return picture_row(names, both, self.prompt(pair), first_wins, votes)


def picture_row(
    names: Sequence[str], both: Sequence[Any], prompt: str, first_wins: float, votes: int
) -> dict[str, Any]:
    """A row in Pick-a-Pic's schema, or its like for videos."""
    sides = dict(zip(names, both, strict=True))
    labels = {"label_0": first_wins, "label_1": 1 - first_wins}
    return {**sides, "caption": prompt, **labels, "votes": votes}


def score_gaps(dataset: Dataset) -> dict[str, np.ndarray]:
    """By NAME, what the columns of the first item have over those of the second: NAME_0 − NAME_1,
    or NAME_chosen − NAME_rejected, of all that are numbers and scores."""
    gaps = {}
    for first, second in SIDES:
        for column in dataset.column_names:
            name = column.removesuffix(f"_{first}")
            other = f"{name}_{second}"
            if name in (column, *NO_SCORES) or other not in dataset.column_names:
                continue
            kinds = [dataset.features[c] for c in (column, other)]
            if all(isinstance(kind, Value) and kind.dtype in NUMBERS for kind in kinds):
                values = [np.array(dataset[c][:], dtype=np.float64) for c in (column, other)]
                gaps[name] = values[0] - values[1]
    return gaps


class TextPairs:
    """The rows of a data set of text pairs; those that cannot be read are left out and counted."""

    runs: tuple[str, ...] = ()

    def __init__(self, dataset: Dataset, what: str, requested: str | None) -> None:
        self.what = what
        rows = list(dataset.remove_columns([FOLDER] * (FOLDER in dataset.column_names)))
        name, format = detect(list(rows[0]), rows[0], requested)
        self.examples: list[Example] = []
        bad: list[str] = []
        kept: list[int] = []
        for number, row in enumerate(rows):
            try:
                self.examples.append(paired(format.read(Record(row))))
                kept.append(number)
            except UserError:
                raise
            except Exception as error:  # whatever a broken row raises
                bad.append(f"row {number}: {as_bad_row(error)}")
        if too_many(len(bad), len(rows)) or not self.examples:
            raise UserError(
                f"data: {len(bad)} of {len(rows)} rows of {name} cannot be used ({bad[0]})"
            )
        self.scores = {name: gaps[kept] for name, gaps in score_gaps(dataset).items()}
        self.skipped = [f"{len(bad)} of {len(rows)} rows cannot be used ({bad[0]})"] if bad else []
        texts = [flat(t) for e in self.examples for t in (e.prompt, *e.completions)]
        self.fingerprint = digest(*texts)

    def __len__(self) -> int:
        return len(self.examples)

    def prompt(self, pair: int) -> str:
        return flat(self.examples[pair].prompt)

    def names(self, pair: int) -> tuple[str, str]:
        first, second = (digest(flat(text)) for text in self.examples[pair].completions)
        return first, second

    def show(self, pair: int) -> list[dict[str, str]]:
        return [{"kind": "text", "text": flat(t)} for t in self.examples[pair].completions]

    def media(self, pair: int, side: int) -> Media:
        raise BadImage("is a text")

    def row(self, pair: int, first_wins: float, votes: int) -> dict[str, Any]:
        """The completion with more votes is the chosen one; the scores are such that
        ``--soft_label_scale 1`` makes P(chosen ≻ rejected) of them."""
        example = self.examples[pair]
        first, second = example.completions
        chosen, rejected = (first, second) if first_wins >= 0.5 else (second, first)
        p = max(first_wins, 1 - first_wins)
        half = CERTAIN / 2 if p == 1 else float(np.log(p / (1 - p))) / 2
        row = {"prompt": example.prompt, "chosen": chosen, "rejected": rejected}
        scores = {"score_chosen": half, "score_rejected": -half, "votes": votes}
        beside = {"tools": example.tools, "chat_template_kwargs": example.template_options}
        return {**row, **scores, **{k: json.dumps(v) for k, v in beside.items() if v}}


def paired(example: Example) -> Example:
    """An example of two completions as it is. Raises BadRow for a single one."""
    if len(example.completions) != 2:
        raise BadRow("a single labelled completion, not a pair")
    return example


def flat(text: Text) -> str:
    """Text as it is; a conversation with a line before each turn that says whose it is, and the
    answer of an assistant alone."""
    if isinstance(text, str):
        return text.strip()
    if len(text) == 1:
        return said(text[0])
    return "\n\n".join(f"{message['role']}:\n{said(message)}" for message in text)


def said(message: dict[str, Any]) -> str:
    """The content of a message, and the calls of tools in it."""
    calls = message.get("tool_calls")
    parts = [str(message.get("content") or ""), json.dumps(calls, indent=1) if calls else ""]
    return "\n".join(part for part in parts if part).strip()
