"""Which pair an annotator sees next, and on which side its items stand.

Order and sides are functions of (seed, pair, annotator): nothing has to be stored for a restart to
go on as before. A pair that is handed out is leased, so that two people never look at it at once.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from diffdpo.annotate.votes import SIDES, Tally
from diffdpo.draws import Purpose, generator

LEASE_SECONDS = 600.0
APART = 10  # so many choices lie between a pair and its repeat, where there are as many
ORDER, COIN = 0, 1  # draws of Purpose.QUEUE: the order of pairs, and after which a repeat comes

Priority = Callable[[], np.ndarray]  # one number a pair; higher ones come first


@dataclass(frozen=True)
class QueueSettings:
    """``votes_per_pair`` votes are asked for on each pair; ``repeat_share`` of an annotator's pairs
    come again."""

    seed: int = 0
    votes_per_pair: int = 3
    repeat_share: float = 0.05
    priority_first: bool = False  # before the number of votes, or after it


@dataclass(frozen=True)
class Item:
    """A pair as one annotator sees it: visit 0, or 1 for its mirrored repeat."""

    pair: int
    visit: int
    left: str  # which of first and second stands on the left

    @property
    def kind(self) -> str:
        """As the line of a vote calls it."""
        return "repeat" if self.visit else "normal"


@dataclass
class Lease:
    """An item that is before an annotator until a time."""

    item: Item
    annotator: str
    until: float


def key_of(annotator: str) -> int:
    """64 bits that stand for a name."""
    return int.from_bytes(hashlib.blake2b(annotator.encode(), digest_size=8).digest(), "big")


def item(seed: int, pair: int, annotator: str, visit: int) -> Item:
    """The pair with its sides: a coin for (seed, pair, annotator), turned over at each visit."""
    coin = generator(seed, Purpose.SIDE, pair, key_of(annotator)).integers(2)
    return Item(pair, visit, SIDES[(int(coin) + visit) % 2])


@dataclass
class Queue:
    """Hands out pairs by what the ``tally`` says; ``priority`` may put some before others."""

    tally: Tally
    settings: QueueSettings
    priority: Priority | None = None
    clock: Callable[[], float] = time.monotonic
    leases: list[Lease] = field(default_factory=list)
    _hashes: dict[str, np.ndarray] = field(default_factory=dict)

    def take(self, annotator: str, count: int) -> list[Item]:
        """The items before an annotator: those leased already, and others until there are
        ``count``. All leases of theirs begin anew."""
        self.expire()
        until = self.clock() + LEASE_SECONDS
        own = self.held(annotator)
        for lease in own:
            lease.until = until
        while len(own) < count and (found := self.choose(annotator)) is not None:
            own.append(self.lease(found, annotator))
        return [lease.item for lease in own]

    def lease(self, found: Item, annotator: str, first: bool = False) -> Lease:
        """Lease an item to an annotator, behind their others or ``first``."""
        made = Lease(found, annotator, self.clock() + LEASE_SECONDS)
        self.leases.insert(0 if first else len(self.leases), made)
        return made

    def expire(self) -> None:
        """Forget the leases whose time is over."""
        now = self.clock()
        self.leases = [lease for lease in self.leases if lease.until > now]

    def held(self, annotator: str) -> list[Lease]:
        """The leases of an annotator."""
        return [lease for lease in self.leases if lease.annotator == annotator]

    def release(self, annotator: str, pair: int, visit: int) -> None:
        """Take an item back from an annotator."""
        self.leases = [
            lease
            for lease in self.leases
            if (lease.annotator, lease.item.pair, lease.item.visit) != (annotator, pair, visit)
        ]

    def choose(self, annotator: str) -> Item | None:
        """A repeat where one is due, else the pair with the fewest votes and, among these, the
        smallest hash; None where nothing is free."""
        seed = self.settings.seed
        if (pair := self.due_repeat(annotator)) is not None:
            return item(seed, pair, annotator, 1)
        open_P = self.open_to(annotator)
        open_P[[lease.item.pair for lease in self.leases]] = False
        rows = np.flatnonzero(open_P)
        if not len(rows):
            return None
        keys = [self.tally.count_P]
        if self.priority is not None:
            keys.insert(0 if self.settings.priority_first else 1, -self.priority())
        for key_P in [*keys, self.hash_of(annotator)]:
            values = key_P[rows]
            rows = rows[values == values.min()]
        return item(seed, int(rows[0]), annotator, 0)

    def open_to(self, annotator: str) -> np.ndarray:
        """Which pairs an annotator may still be asked about: too few votes, and none of theirs."""
        open_P = self.tally.count_P < self.settings.votes_per_pair
        open_P[list(self.tally.seen[annotator])] = False
        return open_P

    def hash_of(self, annotator: str) -> np.ndarray:
        """A number in [0, 1) for every pair: the order in which this annotator sees them."""
        if annotator not in self._hashes:
            random = generator(self.settings.seed, Purpose.QUEUE, key_of(annotator), ORDER)
            self._hashes[annotator] = random.random(len(self.tally.count_P))
        return self._hashes[annotator]

    def due_repeat(self, annotator: str) -> int | None:
        """The pair that an annotator is to see once more now; None where none is due."""
        own = self.tally.by_annotator[annotator].values()
        normal = [vote.pair for vote in own if vote.kind == "normal" and vote.decided]
        again = {vote.pair for vote in own if vote.kind == "repeat"}
        again |= {lease.item.pair for lease in self.held(annotator) if lease.item.visit}
        leased = {lease.item.pair for lease in self.leases}
        coins = generator(self.settings.seed, Purpose.QUEUE, key_of(annotator), COIN)
        due = int((coins.random(len(normal)) < self.settings.repeat_share).sum())
        old = normal[: -min(APART, 1 + len(normal) // 2)]
        old = [pair for pair in old if pair not in again | leased]
        if due <= len(again) or not old:
            return None
        hashes = self.hash_of(annotator)
        return max(old, key=lambda pair: float(hashes[pair]))

    def refusal(self, annotator: str, pair: int, visit: int) -> str:
        """Why a vote cannot be taken; empty where it can.

        A lease that ended, or that a restart forgot, is no reason while nobody else has the pair.
        """
        self.expire()
        if not (0 <= pair < len(self.tally.count_P) and visit in (0, 1)):
            return "there is no such pair"
        voted = self.tally.by_annotator[annotator]
        if visit and (pair, "normal") not in voted:
            return "this pair has not been shown to you before"
        if (pair, "repeat" if visit else "normal") in voted:
            return "your choice on this pair is there already"
        holders = {lease.annotator for lease in self.leases if lease.item.pair == pair}
        if annotator in holders or visit:
            return ""
        full = self.tally.count_P[pair] >= self.settings.votes_per_pair
        return "this pair went to somebody else meanwhile" if holders or full else ""
