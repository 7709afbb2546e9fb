"""What a run was trained on, kept beside its result as digests of texts, so that an evaluation can
tell whether its own prompts and pairs were held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from diffdpo.engine.files import atomic_file
from diffdpo.errors import UserError, short

FILE = "trained_on.safetensors"

Digests = NDArray[np.int64]


@dataclass(frozen=True)
class Overlap:
    """How many prompts or pairs are in the training set of a run; None where it kept no record."""

    count: int
    in_training_set: int | None
    noun: str = "prompt"

    def as_dict(self) -> dict[str, int | None]:
        """For JSON."""
        return {f"{self.noun}s": self.count, "in_training_set": self.in_training_set}

    def __str__(self) -> str:
        """'24 held-out prompts', or what stands in the way of calling them so."""
        noun = self.noun if self.count == 1 else f"{self.noun}s"
        if self.in_training_set == 0:
            return f"{self.count} held-out {noun}"
        if self.in_training_set is None:
            return f"{self.count} {noun}, not known whether trained on"
        return f"{self.count} {noun}, {self.in_training_set} of them in the set it was trained on"


def keep_record(folder: Path, **texts: Iterable[str]) -> None:
    """Write the digests of the texts of each kind, ``prompts`` and perhaps others, that a run was
    trained on: sorted, eight bytes for each distinct one."""
    with atomic_file(folder / FILE) as draft:
        distinct = {kind: dict.fromkeys(values) for kind, values in texts.items()}
        save_file({kind: np.unique(digests(values)) for kind, values in distinct.items()}, draft)


def known(run: str | Path, kind: str, texts: Iterable[str]) -> NDArray[np.bool_] | None:
    """Which of the texts the run in the folder ``run`` was trained on; None without a record.

    Raises UserError where its record is damaged.
    """
    path = Path(run) / FILE
    if not path.is_file():
        return None
    try:
        return np.isin(digests(texts), load_file(path)[kind])
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{path}: damaged ({short(error)}); delete it to judge without knowing what was"
            " trained on"
        ) from error


def overlap(run: str | Path, prompts: Iterable[str]) -> Overlap:
    """How many of the distinct ``prompts`` are in the training set of the run in ``run``."""
    distinct = list(dict.fromkeys(prompts))
    mask = known(run, "prompts", distinct)
    return Overlap(len(distinct), None if mask is None else int(mask.sum()))


def digests(texts: Iterable[str]) -> Digests:
    """The digest of each text."""
    return np.fromiter(map(digest, texts), np.int64)


def digest(text: str) -> int:
    """64 bits of a hash, the same for texts that differ in case and white space alone."""
    plain = " ".join(text.split()).casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "little", signed=True)
