"""What labels hide: one picture on both sides, pairs twice, preferences in a circle."""

import json
from types import SimpleNamespace

import pytest

from diffdpo.image.reading.inputs import training_pairs
from diffdpo.image.reading.traps import find_traps
from diffdpo.image.settings import ImageSettings
from tests.factory import picture

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


@pytest.mark.parametrize("cached", [False, True])
def test_traps_are_counted_when_images_are_checked_and_when_they_are_encoded(tmp_path, cached):
    for number in range(2):
        picture(number).save(tmp_path / f"{number}.png")
    rows = [
        {"prompt": "p", "chosen_file_name": f"{chosen}.png", "rejected_file_name": f"{other}.png"}
        for chosen, other in ((0, 1), (0, 1), (1, 0), (0, 0))
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = ImageSettings(
        dataset_name=str(tmp_path), cache_latents=cached, cache_dir=str(tmp_path / ".cache")
    )
    one_frame = SimpleNamespace(num_frames=1, frame_factor=None)
    pairs = training_pairs(settings, one_frame, quiet=True, rows=None)
    assert str(pairs.tally.traps) == (
        "1 with one picture on both sides, 1 repeated, 3 that contradict each other"
    )
    assert len(pairs) == 4
