"""What a user did wrong, said in one line a mistake."""

from __future__ import annotations

from importlib.util import find_spec


class UserError(Exception):
    """One or more mistakes in settings, data or files; the command line prints a line for each and
    exits with 2."""

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
    """The lines that ask for those of the packages that are missing; nothing is imported."""
    return [EXTRAS[name] for name in packages if find_spec(name) is None]
