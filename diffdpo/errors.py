"""Mistakes of the user, each told in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from importlib.util import find_spec


class UserError(Exception):
    """One or more mistakes in settings, data or files.

    The command line prints a line for each and exits with code 2.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


class SharedError(UserError):
    """A UserError that every process of a run raises at the same point; the first one tells it.

    Any other that is raised while a run trains is one process's own, which tells it itself.
    """


def short(foreign: object, letters: int = 80) -> str:
    """Foreign text for an error line: on one line, and cut where it is long.

    It comes from data, files and other libraries' messages, and may be of any length.
    """
    # Cut before it is taken apart: the text may be as long as a file.
    text = " ".join(str(foreign)[: 20 * letters].split())
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def nearest(word: str, names: Iterable[str]) -> str:
    """' (did you mean X?)' where one of the names comes close."""
    match = difflib.get_close_matches(word, list(names), n=1)
    return f" (did you mean {match[0]}?)" if match else ""


PAGE = "the page to choose on needs starlette, uvicorn and krippendorff: pip install"
PAGE += " 'diffdpo[annotate]'"
# Packages that come with an optional extra, and the line that asks for each.
EXTRAS = {
    "av": "videos need PyAV: pip install 'diffdpo[video]'; lists of pictures do not",
    "torchao": "weights of int8 and fp8_torchao need torchao: pip install 'diffdpo[lowbit]'",
    "ray": "tables on a cluster need Ray: pip install 'diffdpo[ray]'",
    "matplotlib": "plots need matplotlib: pip install 'diffdpo[report]'",
    "vaderSentiment": (
        "the sentiment reward needs vaderSentiment: pip install 'diffdpo[sentiment]'"
    ),
    "starlette": PAGE,
    "uvicorn": PAGE,
    "krippendorff": PAGE,
}


def not_installed(*packages: str) -> list[str]:
    """A line for each of the packages that is missing, or for several of one extra."""
    # Looked for and not imported: settings are checked before anything heavy loads.
    return list(dict.fromkeys(EXTRAS[name] for name in packages if find_spec(name) is None))
