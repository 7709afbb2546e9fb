"""Mistakes of the user, each told in one line."""

from __future__ import annotations

from importlib.util import find_spec


class UserError(Exception):
    """One or more mistakes in settings, data or files.

    The command line prints a line for each and exits with code 2.
    """

    def __init__(self, *mistakes: str) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


# Packages that come with an optional extra, and the line that asks for each.
EXTRAS = {
    "matplotlib": "plots need matplotlib: pip install 'diffdpo[report]'",
    "vaderSentiment": (
        "the sentiment reward needs vaderSentiment: pip install 'diffdpo[sentiment]'"
    ),
}


def not_installed(*packages: str) -> list[str]:
    """A line for each of the packages that is missing."""
    # Looked for and not imported: settings are checked before anything heavy loads.
    return [EXTRAS[name] for name in packages if find_spec(name) is None]
