"""The work at the page: hands out pairs, takes choices, and takes them back. No web in it."""

from __future__ import annotations

import datetime
import re
import statistics
from dataclasses import dataclass
from typing import Any

from diffdpo.annotate.media import Media
from diffdpo.annotate.pairs import Pairs
from diffdpo.annotate.queue import Item, Queue
from diffdpo.annotate.queue import item as item_of
from diffdpo.annotate.votes import SIDES, UNDO, Tally, Vote, VoteFile

AHEAD = 3  # items before an annotator: the one on the screen and those being loaded
NAME = re.compile(r"[\w][\w .@-]{0,39}")
LONGEST_MS = 24 * 3600 * 1000
PACE_OF = 30  # the newest choices of an annotator, whose median time is their pace
# A choice on the screen as the line of a vote has it, by what is shown on the left.
ON_SCREEN = {
    "left": {"first": "first", "second": "second"},
    "right": {"first": "second", "second": "first"},
}
NEITHER = ("tie", "both_bad", "skip")


class Refused(Exception):
    """A request that cannot be met; ``status`` is HTTP's."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Session:
    """What is chosen between, the votes so far and those to come."""

    pairs: Pairs
    file: VoteFile
    tally: Tally
    queue: Queue

    def next(self, annotator: str) -> dict[str, Any]:
        """The items before an annotator and how far they are. Raises Refused for a bad name."""
        items = [self.as_json(found) for found in self.queue.take(known(annotator), AHEAD)]
        return {"items": items, "progress": self.progress(annotator)}

    def vote(self, annotator: str, pair: int, visit: int, choice: str, ms: int) -> dict[str, Any]:
        """Write a choice down: left, right, tie, both_bad or skip; then as ``next``.

        Raises Refused for one that cannot be taken, and OSError where the disk does not take it.
        """
        if choice not in (*ON_SCREEN, *NEITHER):
            raise Refused(400, "an unknown choice")
        if not 0 <= ms <= LONGEST_MS:
            raise Refused(400, "an impossible time")
        if why := self.queue.refusal(known(annotator), pair, visit):
            raise Refused(409, why)
        found = item_of(self.queue.settings.seed, pair, annotator, visit)
        chosen = ON_SCREEN[choice][found.left] if choice in ON_SCREEN else choice
        self.write(self.line(found, annotator, chosen, ms))
        self.queue.release(annotator, pair, visit)
        return self.next(annotator)

    def undo(self, annotator: str) -> dict[str, Any]:
        """Take the newest choice of an annotator back, and put its pair before them again.

        Raises Refused where there is none, and OSError where the disk does not take it.
        """
        last = self.tally.last(known(annotator))
        if last is None:
            raise Refused(409, "there is nothing to take back")
        found = Item(last.pair, int(last.kind == "repeat"), last.left)
        self.write(self.line(found, annotator, UNDO, 0))
        others = [lease for lease in self.queue.leases if lease.item.pair == last.pair]
        if any(lease.annotator != annotator for lease in others):
            return self.next(annotator)  # it is before somebody else now
        self.queue.release(annotator, found.pair, found.visit)
        self.queue.lease(found, annotator, first=True)
        return self.next(annotator)

    def write(self, vote: Vote) -> None:
        """A line to the disk, then into the tally."""
        self.file.append(vote)
        self.tally.add(vote)

    def line(self, found: Item, annotator: str, choice: str, ms: int) -> Vote:
        """The line for a choice that was made now, ``ms`` after its pair was seen."""
        seen = datetime.datetime.now(datetime.UTC) - datetime.timedelta(milliseconds=ms)
        first, second = self.pairs.names(found.pair)
        return Vote(
            pair=found.pair,
            prompt=self.pairs.prompt(found.pair),
            first=first,
            second=second,
            left=found.left,
            choice=choice,
            annotator=annotator,
            started=seen.isoformat(timespec="milliseconds"),
            ms=ms,
            kind=found.kind,
        )

    def media(self, annotator: str, pair: int, visit: int, place: int) -> Media:
        """The picture or video that an annotator sees on the left (0) or on the right (1).

        Raises Refused where there is none, and BadImage where it cannot be read.
        """
        if not (0 <= pair < len(self.pairs) and visit in (0, 1) and place in (0, 1)):
            raise Refused(404, "there is no such picture")
        found = item_of(self.queue.settings.seed, pair, known(annotator), visit)
        return self.pairs.media(pair, SIDES.index(found.left) ^ place)

    def as_json(self, found: Item) -> dict[str, Any]:
        """An item as the page reads it; the left side first, and nothing of what it is."""
        both = self.pairs.show(found.pair)
        sides = both if found.left == "first" else both[::-1]
        prompt = self.pairs.prompt(found.pair)
        return {"pair": found.pair, "visit": found.visit, "prompt": prompt, "sides": sides}

    def progress(self, annotator: str) -> dict[str, Any]:
        """How far an annotator is, and all of them together."""
        own = self.tally.by_annotator[annotator].values()
        times = [vote.ms for vote in own if vote.decided][-PACE_OF:]
        return {
            "seen": len(self.tally.seen[annotator]),
            "open": int(self.queue.open_to(annotator).sum()),
            "pace_ms": statistics.median(times) if times else None,
            "votes": int(self.tally.count_P.sum()),
            "people": self.tally.people,
            "agreement": self.tally.agreement(),
            "undo": bool(own),
        }


def known(annotator: str) -> str:
    """The name of an annotator. Raises Refused for one that is none."""
    if not NAME.fullmatch(annotator):
        raise Refused(400, "a name has 1 to 40 letters, digits, spaces or . @ - _")
    return annotator
