"""What rewards with a network behind them share: their words, and the scores they have given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from diffdpo.metrics.reward import Score

MOST = 1 << 20  # scores that are kept


@dataclass(frozen=True)
class Words:
    """The text side of a network: a tokenizer, and the most tokens of a prompt that are read."""

    tokenizer: Any
    length: int

    def tokens(self, prompts: Sequence[str], device: Any) -> Any:
        """Prompts as ``input_ids`` and ``attention_mask``, ``(N, length)`` each, cut and filled
        up to ``length``."""
        return self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.length,
            return_tensors="pt",
        ).to(device)

    def too_long(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are cut."""
        rows = self.tokenizer(list(prompts), verbose=False)["input_ids"] if prompts else []
        return sum(len(row) > self.length for row in rows)


def remembering(score: Score, network: Any) -> Score:
    """The same judge, which gives a picture that it has seen under a prompt the score of then.

    So equal pictures tie exactly: the last bits of a network's output depend on the batch.
    """
    known: dict[bytes, float] = {}

    def again(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        precision = str(next(network.parameters()).dtype)
        keys = [
            key_of(picture, prompt, precision)
            for picture, prompt in zip(pictures, prompts, strict=True)
        ]
        if len(known) > MOST:
            known.clear()
        new = {key: row for row, key in enumerate(keys) if key not in known}
        if rows := list(new.values()):
            scores = score([pictures[row] for row in rows], [prompts[row] for row in rows])
            known.update(zip(new, map(float, scores), strict=True))
        return np.array([known[key] for key in keys], dtype=np.float64)

    return again


def key_of(picture: Image.Image, prompt: str, precision: str) -> bytes:
    """A digest of all that a score of one judge depends on."""
    digest = hashlib.blake2b(f"{precision} {picture.mode} {picture.size}".encode(), digest_size=16)
    palette = picture.getpalette("RGBA") if picture.mode == "P" else None
    notes = repr((palette, picture.info.get("transparency"), prompt))
    digest.update(notes.encode("utf-8", "surrogatepass"))
    digest.update(picture.tobytes())
    return digest.digest()
