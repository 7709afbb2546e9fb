"""What labels of pictures may hide: one picture on both sides, a pair twice, preferences that go
round in a circle."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Traps:
    """The number of pairs of each kind. They are trained on; that there are some is worth knowing,
    for nothing can be learned from them, or not what their number says."""

    same_picture: int = 0  # both sides have it
    repeated: int = 0  # under the same prompt with the same label, after the first
    in_circles: int = 0  # a ≻ b ≻ … ≻ a under one prompt

    def __str__(self) -> str:
        """'2 with one picture on both sides, 4 in circles'; '' where there are none."""
        counts = [(self.same_picture, "with one picture on both sides")]
        counts += [(self.repeated, "repeated"), (self.in_circles, "that contradict each other")]
        return ", ".join(f"{count} {what}" for count, what in counts if count)


def find_traps(
    pictures: Iterable[tuple[str, str]],
    prompts: Iterable[str],
    first_wins: Sequence[float],
) -> Traps:
    """The traps in pairs of pictures that are named by what tells them apart."""
    pairs = list(zip(pictures, prompts, first_wins, strict=True))
    same = sum(first == second for (first, second), _, _ in pairs)
    labels = Counter(
        (prompt, *((first, second, wins) if first <= second else (second, first, 1 - wins)))
        for (first, second), prompt, wins in pairs
    )
    beaten: dict[str, Counter] = defaultdict(Counter)  # by prompt: how often who beat whom
    for (first, second), prompt, wins in pairs:
        if first != second and wins != 0.5:
            beaten[prompt][(first, second) if wins > 0.5 else (second, first)] += 1
    repeated = sum(count - 1 for count in labels.values())
    return Traps(same, repeated, sum(map(in_circles, beaten.values())))


def in_circles(beaten: Counter) -> int:
    """How many of the games (winner, loser) are left after those who never won, or never lost, are
    taken out with their games, again and again: what lies in a circle, or between two."""
    games = set(beaten)
    while True:
        winners, losers = {game[0] for game in games}, {game[1] for game in games}
        left = {game for game in games if game[0] in losers and game[1] in winners}
        if left == games:
            return sum(beaten[game] for game in games)
        games = left
