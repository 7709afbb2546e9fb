"""What a run was trained on, kept beside its result as digests of the prompts, so that an
evaluation can tell whether its own prompts were held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
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
    """How many of some prompts are in the training set of a run; None where it kept no record."""

    prompts: int
    in_training_set: int | None

    def as_dict(self) -> dict[str, int | None]:
        """For JSON."""
        return asdict(self)

    @property
    def held_out(self) -> bool:
        """Whether it is known that none of the prompts was trained on."""
        return self.in_training_set == 0

    def __str__(self) -> str:
        """'24 held-out prompts', or what stands in the way of calling them so."""
        noun = "prompts" if self.prompts != 1 else "prompt"
        if self.held_out:
            return f"{self.prompts} held-out {noun}"
        if self.in_training_set is None:
            return f"{self.prompts} {noun}, not known whether trained on"
        return f"{self.prompts} {noun}, {self.in_training_set} of them in the set it was trained on"


def keep_record(folder: Path, prompts: Iterable[str]) -> None:
    """Write the digests of a run's prompts, sorted, eight bytes for each distinct one."""
    with atomic_file(folder / FILE) as draft:
        save_file({"prompts": digests(prompts)}, draft)


def overlap(run: str | Path, prompts: Iterable[str]) -> Overlap:
    """How many of the distinct ``prompts`` the run in the folder ``run`` was trained on.

    Raises UserError where its record is damaged.
    """
    path, mine = Path(run) / FILE, digests(prompts)
    if not path.is_file():
        return Overlap(len(mine), None)
    try:
        theirs = load_file(path)["prompts"]
    except (OSError, KeyError, SafetensorError) as error:
        raise UserError(
            f"{path}: damaged ({short(error)}); delete it to judge without knowing what was"
            " trained on"
        ) from error
    return Overlap(len(mine), int(np.isin(mine, theirs).sum()))


def digests(prompts: Iterable[str]) -> Digests:
    """The distinct digests of the prompts, sorted."""
    return np.unique(np.fromiter(map(digest, prompts), np.int64))


def digest(prompt: str) -> int:
    """64 bits of a hash, the same for prompts that differ in case and white space alone."""
    text = " ".join(prompt.split()).casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)
