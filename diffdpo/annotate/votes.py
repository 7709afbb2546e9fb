"""votes.jsonl: one line for every choice, on the disk before the page hears of it.

Nothing is ever changed in the file: taking a choice back is another line. What holds is what the
lines amount to, read from the first to the last (``Tally``); a restart, a crash and the joined
files of several machines are then one rule.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from diffdpo.engine.files import sync
from diffdpo.errors import UserError, short

FILE = "votes.jsonl"
VERSION = 1
SIDES = ("first", "second")
DECIDED = ("first", "second", "tie", "both_bad")  # the choices that count as votes
CHOICES = (*DECIDED, "skip")
UNDO = "undo"
KINDS = ("normal", "repeat")
FAST_MS = 300  # a choice in less time is kept, and counted as one that nobody looked at
TOLERATED = 0.05  # share of broken lines: more, and the file is not what it is taken for


@dataclass(frozen=True)
class Vote:
    """One line. ``choice`` names an item and not a side of the screen: ``first`` and ``second``
    are the two items of the pair, and ``left`` says which of them was shown on the left."""

    pair: int
    prompt: str
    first: str  # the name of the first item: a run, a model, or a digest of the content
    second: str
    left: str
    choice: str  # one of CHOICES; UNDO takes back the vote of this annotator on this pair
    annotator: str
    started: str  # when the pair was seen, ISO 8601 in UTC
    ms: int  # from then to the choice
    kind: str = "normal"  # or "repeat": the same pair again, mirrored
    version: int = VERSION

    @property
    def decided(self) -> bool:
        """Whether the choice counts as a vote: it was not skipped."""
        return self.choice in DECIDED

    @property
    def fast(self) -> bool:
        """Whether it came faster than a person can look."""
        return self.ms < FAST_MS

    @property
    def line(self) -> str:
        """The line of the file."""
        return json.dumps(asdict(self), ensure_ascii=False) + "\n"


TYPES: dict[str, type] = {field.name: int if field.type == "int" else str for field in fields(Vote)}


def read_vote(line: str) -> Vote:
    """The vote of a line. Raises ValueError with the reason where it is none."""
    record = json.loads(line)
    if not isinstance(record, dict) or set(record) != set(TYPES):
        raise ValueError("not the fields of a vote")
    for name, kind in TYPES.items():
        if type(record[name]) is not kind:
            raise ValueError(f"{name} is {short(repr(record[name]), 30)}")
    vote = Vote(**record)
    if least := [name for name in ("pair", "ms") if record[name] < 0]:
        raise ValueError(f"{least[0]} is {short(record[least[0]], 30)}")
    known = {"version": (VERSION,), "left": SIDES, "kind": KINDS, "choice": (*CHOICES, UNDO)}
    for name, values in known.items():
        if getattr(vote, name) not in values:
            raise ValueError(f"{name} {short(repr(getattr(vote, name)), 30)} is unknown")
    return vote


class VoteFile:
    """The file of votes in a folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.notes: list[str] = []  # on what was left out when the file was read
        self._descriptor: int | None = None

    def read(self, on: Callable[[Vote], bool] = lambda vote: True) -> list[Vote]:
        """All votes in the file; a last line that was cut short is none. ``on`` says whether a vote
        is on the pairs in question.

        Other lines are left out and noted. Raises UserError where they are more than 5 %, or the
        file cannot be read.
        """
        if not self.path.exists():
            return []
        try:
            content = self.path.read_bytes()
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        *whole, torn = content.split(b"\n")
        votes, broken = [], []
        for number, line in enumerate(whole, start=1):
            try:
                vote = read_vote(line.decode())
            except (ValueError, RecursionError) as error:
                broken.append(f"line {number} is no vote ({short(error)})")
                continue
            if on(vote):
                votes.append(vote)
            else:
                broken.append(f"line {number} is no vote on these pairs (pair {vote.pair})")
        if len(broken) > max(1, TOLERATED * len(whole)):
            raise UserError(
                f"{self.path}: {len(broken)} of {len(whole)} lines are no votes: {broken[0]}; move"
                " the file away"
            )
        self.notes = [f"{self.path.name}: {line}; left out" for line in broken]
        if torn:
            self.notes.append(
                f"{self.path.name}: a last line of {len(torn)} bytes was cut short; left out"
            )
        return votes

    def open(self) -> None:
        """Open the file for more lines, after the last whole one.

        Raises UserError where the disk does not take that.
        """
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            content = self.path.read_bytes()
            os.ftruncate(self._descriptor, content.rfind(b"\n") + 1)
            os.fsync(self._descriptor)
            sync(self.path.parent)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be written ({error.strerror})") from error

    def append(self, vote: Vote) -> None:
        """Add a line, and wait until it is on the disk.

        Raises OSError where it is not; the file is then as it was before.
        """
        assert self._descriptor is not None
        end = os.fstat(self._descriptor).st_size
        data = vote.line.encode()
        try:
            if os.pwrite(self._descriptor, data, end) != len(data):
                raise OSError(28, "No space left on device")
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, end)
            raise

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Tally:
    """What the lines so far amount to, for ``pairs`` pairs."""

    def __init__(self, pairs: int, votes: Iterable[Vote] = ()) -> None:
        self.count_P = np.zeros(pairs, dtype=np.int64)  # votes that count, of each pair
        # By pair and kind, in the order in which they were given.
        self.by_annotator: dict[str, dict[tuple[int, str], Vote]] = defaultdict(dict)
        self.seen: dict[str, set[int]] = defaultdict(set)
        self.choices: dict[int, Counter[str]] = defaultdict(Counter)
        self._agreeing: dict[int, float] = {}  # of each pair with two votes or more
        self.lines = 0
        self.again = 0  # votes in the place of an earlier one of the same person on the same pair
        for vote in votes:
            self.add(vote)

    def add(self, vote: Vote) -> None:
        """Take one more line into account."""
        self.lines += 1
        if vote.choice == UNDO:
            self._undo(vote)
            return
        # Files that were joined may have a person's choice on a pair twice; nobody votes twice.
        self.again += self._undo(vote)
        self.by_annotator[vote.annotator][vote.pair, vote.kind] = vote
        if vote.kind == "normal":
            self.seen[vote.annotator].add(vote.pair)
            self._count(vote, 1)

    def _undo(self, undo: Vote) -> bool:
        """Take the vote on the same pair back; returns whether there was one."""
        vote = self.by_annotator[undo.annotator].pop((undo.pair, undo.kind), None)
        if vote is None:
            return False
        if vote.kind == "normal":
            self.seen[vote.annotator].discard(vote.pair)
            self._count(vote, -1)
        return True

    def _count(self, vote: Vote, change: int) -> None:
        if not vote.decided:
            return
        self.count_P[vote.pair] += change
        counts = self.choices[vote.pair]
        counts[vote.choice] += change
        self._agreeing.pop(vote.pair, None)
        if (total := counts.total()) > 1:
            self._agreeing[vote.pair] = agreeing(counts.values(), total)

    @property
    def notes(self) -> list[str]:
        """A line where choices took the place of earlier ones."""
        one = "1 choice is" if self.again == 1 else f"{self.again:,} choices are"
        line = f"{FILE}: {one} by somebody who had chosen on the pair before; the later one holds"
        return [line] * bool(self.again)

    @property
    def people(self) -> int:
        """How many people have voted; those who only skipped have not."""
        everybody = self.by_annotator.values()
        return sum(any(vote.decided for vote in own.values()) for own in everybody)

    @property
    def votes(self) -> list[Vote]:
        """The votes that hold, in order of the annotators; those skipped as well."""
        return [vote for own in self.by_annotator.values() for vote in own.values()]

    def last(self, annotator: str) -> Vote | None:
        """The newest vote of an annotator that holds."""
        return next(reversed(self.by_annotator[annotator].values()), None)

    def agreement(self) -> dict[str, Any] | None:
        """The mean share of agreeing votes over the pairs with two or more; None without any."""
        if not self._agreeing:
            return None
        share = sum(self._agreeing.values()) / len(self._agreeing)
        return {"share": share, "pairs": len(self._agreeing)}


def agreeing(counts: Iterable[int], total: int) -> float:
    """The share of all pairs of ``total`` votes that are alike, from the counts of each choice."""
    return sum(count * (count - 1) for count in counts) / (total * (total - 1))
