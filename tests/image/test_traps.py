"""What labels hide: one picture on both sides, pairs twice, preferences in a circle."""

import pytest

from diffdpo.image.reading.traps import find_traps
from tests.factory import picture
from tests.image.test_image_formats import names, opened

TRAPS = {
    "none": ([("a", "b", 1), ("b", "c", 1), ("a", "c", 1)], (0, 0, 0)),
    "both sides": ([("a", "a", 1), ("a", "b", 1)], (1, 0, 0)),
    "repeated, once the other way round": (
        [("a", "b", 1), ("a", "b", 1), ("b", "a", 0)],
        (0, 2, 0),
    ),
    "contradiction": ([("a", "b", 1), ("b", "a", 1), ("a", "c", 1)], (0, 0, 2)),
    "circle of three with a tail": (
        [("a", "b", 1), ("b", "c", 0.8), ("a", "c", 0), ("c", "d", 1)],
        (0, 0, 3),
    ),
    "a tie is in no circle": ([("a", "b", 1), ("b", "a", 0.5)], (0, 0, 0)),
}


@pytest.mark.parametrize(("pairs", "expected"), TRAPS.values(), ids=TRAPS)
def test_traps(pairs, expected):
    sides, wins = [pair[:2] for pair in pairs], [pair[2] for pair in pairs]
    found = find_traps(sides, ["p"] * len(pairs), wins)
    assert (found.same_picture, found.repeated, found.in_circles) == expected
    # Under a prompt of its own no pair contradicts or repeats another.
    alone = find_traps(sides, [str(n) for n in range(len(pairs))], wins)
    assert (alone.same_picture, alone.repeated, alone.in_circles) == (expected[0], 0, 0)


def test_traps_are_counted_when_images_are_checked(tmp_path):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    first, second = names(0, 1)
    rows = [{"prompt": "p", "chosen": first, "rejected": second}] * 2
    rows += [{"prompt": "p", "chosen": second, "rejected": first}]
    rows += [{"prompt": "p", "chosen": first, "rejected": first}]
    pairs = opened(tmp_path, rows)
    pairs.check(quiet=True)
    assert str(pairs.tally.traps) == (
        "1 with one picture on both sides, 1 repeated, 3 that contradict each other"
    )
    assert len(pairs) == 4
