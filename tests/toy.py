"""Toy settings, and the mistakes that a command line makes of them."""

from dataclasses import dataclass

import pytest

from diffdpo.config import BaseSettings, parse
from diffdpo.errors import UserError
from diffdpo.flags import flag


@dataclass(frozen=True)
class Toy(BaseSettings):
    count: int = flag(3, "how many")
    rate: float = flag(0.5, "how fast")
    names: list[str] = flag(["a"], "who", aliases=["--who"])
    loud: bool = flag(False, "say so")

    def problems(self):
        return ["--count must be positive"] if self.count < 1 else []

    @classmethod
    def inert(cls):
        return {"old_flag": "it does nothing"}


def mistakes(*argv, cls=Toy):
    with pytest.raises(UserError) as caught:
        parse(cls, list(argv))
    return caught.value.mistakes
