"""What a user did wrong, said in one line a mistake."""

from __future__ import annotations


class UserError(Exception):
    """One or more mistakes in settings, data or files; the command line prints a line for each and
    exits with 2."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes
