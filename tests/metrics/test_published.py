"""Scores that the authors of rewards have published, for those who have the weights.

    DIFFDPO_WEIGHTS=FOLDER python -m pytest -m weights

The folder holds ``hpsv2/`` and ``imagereward/`` as ``convert_reward`` writes them, and the pictures
of the authors' repositories: ``demo_image.jpg`` of tgxs002/HPSv2 (hpsv2/assets) and ``1.webp`` to
``4.webp`` of THUDM/ImageReward (assets/images).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from diffdpo.metrics import REWARDS

pytestmark = pytest.mark.weights
FOLDER = Path(os.environ.get("DIFFDPO_WEIGHTS", "/nowhere"))
OCEAN = "a painting of an ocean with clouds and birds, day time, low depth field effect"
PUBLISHED = {
    # By the authors on the demo picture, in half precision: HPSv2's issue 27.
    "hpsv2": (["demo_image.jpg"], "A cat with two horns on its head", [0.2876], 2e-3),
    # README of ImageReward.
    "imagereward": (
        [f"{number}.webp" for number in range(1, 5)],
        OCEAN,
        [0.58116, 0.27453, -1.41318, -2.02957],
        5e-3,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_reward_gives_the_published_scores(name):
    files, prompt, expected, tolerance = PUBLISHED[name]
    paths = [FOLDER / file for file in files]
    if missing := [path for path in (FOLDER / name, *paths) if not path.exists()]:
        pytest.skip(f"no {missing[0]}")
    scores = REWARDS[name](str(FOLDER / name))(
        [Image.open(p) for p in paths], [prompt] * len(paths)
    )
    assert scores == pytest.approx(expected, abs=tolerance)
