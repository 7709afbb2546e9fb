"""Draws the picture of the page in docs/annotate.md:

python -m tests.annotate.screenshot assets/annotate.png
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from diffdpo.data.bundled import bundled
from diffdpo.image.bundled import PAIRS
from tests.annotate.browser import Person, serving, started
from tests.annotate.made import session

SIZE = {"width": 1180, "height": 740}
NAMES = ("ann", "bob")
PAIR = "parachute"


def draw(path: Path) -> None:
    """The page as two people have left it after a while, at a pair with this prompt."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(Path(folder), [bundled(PAIRS)], votes_per_pair=2)
        random = np.random.default_rng(0)
        for _ in range(60):
            for name in NAMES:
                one = made.next(name)["items"][0]
                choice = "skip" if one["prompt"] == PAIR else str(random.choice(["left", "right"]))
                ms = int(random.integers(2000, 6000))
                made.vote(name, one["pair"], one["visit"], choice, ms)
        with serving(made) as url, started() as browser:
            person = Person(browser, url, viewport=SIZE)
            person.page.evaluate("localStorage.setItem('annotator', 'cy')")
            person.page.reload()
            person.wait("pair")
            while person.prompt != PAIR:
                person.press("s")
            person.page.evaluate("say('')")
            person.page.screenshot(path=path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
