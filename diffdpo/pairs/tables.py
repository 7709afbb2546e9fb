"""Candidates and their scores as tables, so that another reward or selection samples nothing.

Shapes: ``P`` prompts, ``N`` candidates of each, ``R`` rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Features, Value

from diffdpo.batched import batched
from diffdpo.cache.keys import Key, digest
from diffdpo.cache.tables import is_complete, shards, table
from diffdpo.draws import Purpose, generator
from diffdpo.errors import short

SHARD = 64  # candidates at most: they take minutes, and a kill loses those that are begun
SCORES = Features({"score": Value("float64")})
# Seeds of candidates lie above those of pictures that an evaluation samples (``seeds_for``): no
# picture of the one is one of the other. The generators of PyTorch take 32 bits of a seed.
FIRST_SEED = 2**31

Judge = Callable[[Sequence[int]], np.ndarray]  # the rows of candidates → their scores


@dataclass(frozen=True)
class Layout:
    """The rows of a table of candidates: the first of every prompt, then the second, and so on.

    A larger number of candidates then adds rows and shards, and changes none of those before.
    """

    prompts: int
    candidates: int

    @property
    def rows(self) -> int:
        """The number of candidates of all prompts."""
        return self.prompts * self.candidates

    @property
    def ranges(self) -> list[range]:
        """The rows of each shard."""
        starts = range(0, self.rows, self.prompts)
        return [
            range(start + span.start, start + span.stop)
            for start in starts
            for span in shards(self.prompts, SHARD)
        ]

    def of(self, row: int) -> tuple[int, int]:
        """The prompt and the number of a candidate."""
        return row % self.prompts, row // self.prompts

    def row(self, prompt: int, candidate: int) -> int:
        """The row of a candidate."""
        return candidate * self.prompts + prompt


def called(heads: Sequence[str], both: Iterable[tuple[int, int]]) -> list[str]:
    """Candidates by prompt and number, in the words of an error line; ``heads`` are the prompts."""
    return [f"candidate {n + 1} of prompt {short(heads[p], 60)!r}" for p, n in both]


def prompt_key(prompt: str) -> int:
    """A number of a prompt for draws: by its text, so that no other prompts change it."""
    return int(digest(prompt), 16)


def candidate_seed(seed: int, prompt: str, candidate: int) -> int:
    """The seed that a candidate is sampled with: from 2³¹, below 2³²."""
    draws = generator(seed, Purpose.CANDIDATE, prompt_key(prompt), candidate)
    return FIRST_SEED + int(draws.integers(0, 2**31))


def is_sampled(root: str, key: Key, layout: Layout, accelerator: Accelerator) -> bool:
    """Whether all of a table is stored; to be asked by all processes."""
    return is_complete(root, key, layout.rows, accelerator, layout.ranges)


def candidates(
    root: str,
    key: Key,
    features: Features,
    layout: Layout,
    compute: Callable[[range], Iterator[dict[str, Any]]],
    accelerator: Accelerator,
) -> Dataset:
    """The table of all candidates; those that are missing are sampled first."""
    return table(root, key, features, layout.rows, compute, accelerator, layout.ranges)


def scores_key(candidates: Key, signature: str) -> Key:
    """The key of the scores that one reward gives to the candidates of a table."""
    return Key("scores", {"candidates": candidates.folder, "reward": signature})


def scores(
    root: str,
    keys: Mapping[str, Key],
    layout: Layout,
    judges: Mapping[str, Judge],
    batch: int,
    accelerator: Accelerator,
) -> np.ndarray:
    """The scores of all candidates by the rewards of ``keys``, ``batch`` at once: ``(P, N, R)``."""

    def by(judge: Judge) -> Callable[[range], Iterator[dict[str, Any]]]:
        def compute(span: range) -> Iterator[dict[str, Any]]:
            for rows in batched(span, batch):
                yield from ({"score": score} for score in judge(rows).tolist())

        return compute

    columns = [
        candidates(root, key, SCORES, layout, by(judges[name]), accelerator)["score"][:]
        for name, key in keys.items()
    ]
    shape = len(columns), layout.candidates, layout.prompts
    return np.reshape(np.asarray(columns, dtype=np.float64), shape).transpose(2, 1, 0)
