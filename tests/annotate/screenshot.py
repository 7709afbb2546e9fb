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
BEFORE = 37  # choices of the person at the page


def draw(path: Path) -> None:
    """The page as it is after a while, with two others at work."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(Path(folder), [bundled(PAIRS)])
        random = np.random.default_rng(0)
        for name, count in (("ann", BEFORE), ("bob", BEFORE), ("cy", BEFORE)):
            for pair in range(count):
                choice = "tie" if random.random() < 0.1 else ("left", "right")[pair % 2]
                made.vote(name, pair, 0, choice, int(random.integers(2000, 6000)))
        with serving(made) as url, started() as browser:
            person = Person(browser, url, viewport=SIZE)
            person.page.evaluate("localStorage.setItem('annotator', 'cy')")
            person.page.reload()
            person.wait("pair")
            person.page.screenshot(path=path)


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
