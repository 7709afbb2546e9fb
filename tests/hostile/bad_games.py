"""Comparisons that cannot be fitted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow
import pyarrow.parquet

from tests.hostile.case import Bad, Material

Make = Callable[[Material], list[str]]
FIT = "fit_bradley_terry"
RING = "winner,loser\na,b\nb,c\nc,a\n"


def games(text: str | bytes, *words: str, name: str = "games.csv") -> Make:
    """A ranking of the comparisons in ``text``."""

    def make(material: Material) -> list[str]:
        content = text if isinstance(text, bytes) else text.encode()
        (material.folder / name).write_bytes(content)
        return ["--comparisons", str(material.folder / name), *words]

    return make


def columns(**values: object) -> Make:
    """A ranking of a parquet table with these columns."""

    def make(material: Material) -> list[str]:
        path = material.folder / "games.parquet"
        pyarrow.parquet.write_table(pyarrow.table(values), path)
        return ["--comparisons", str(path)]

    return make


CASES = [
    Bad(
        "a column is missing",
        FIT,
        games("winner,looser\na,b\n"),
        ".*needs the columns `winner` and `loser`",
    ),
    Bad("an item plays itself", FIT, games("winner,loser\na,a\n"), r"line 2: an item against"),
    Bad("a negative count", FIT, games("winner,loser,count\na,b,-1\n"), "line 2: `count` must be"),
    Bad(
        "a count that is no number", FIT, games("winner,loser,count\na,b,nan\n"), "line 2: `count`"
    ),
    Bad("a count beyond exact numbers", FIT, games("winner,loser,count\na,b,1e300\n"), "line 2: "),
    Bad(
        "a weight that underflows",
        FIT,
        games("winner,loser,weight\na,b,1e-400\n"),
        ".*no comparisons",
    ),
    Bad("an outcome in words", FIT, games("first,second,outcome\na,b,win\n"), "line 2: `outcome`"),
    Bad("one item alone", FIT, games("winner,loser\na,\n,a\n"), "line 2: an item is missing"),
    Bad("no game at all", FIT, games("winner,loser\n"), ".*no comparisons"),
    Bad("UTF-16", FIT, games(RING.encode("utf-16")), r".*not UTF-8 text"),
    Bad("a column twice", FIT, games("winner,winner,loser\na,b,c\n"), ".*several columns winner"),
    Bad(
        "a renamed column that is not there",
        FIT,
        games(RING, "--count_column", "games"),
        ".*has no column games; found winner, loser",
    ),
    Bad("a long name", FIT, games(f"winner,loser\n{'a' * 9000},b\n"), "no finite strengths exist"),
    Bad("the games would be overwritten", FIT, games(RING, "--output", "games.csv"), ".*same file"),
    Bad("a prior of no width", FIT, games(RING, "--prior_std", "1e-300"), "prior_std: must be"),
    Bad(
        "resamples beyond memory",
        FIT,
        games(RING, "--interval", "bootstrap", "--bootstrap_samples", "1000000000000"),
        "bootstrap_samples: .* GiB of memory",
    ),
    Bad("a seed of 70 bits", FIT, games(RING, "--seed", str(2**70)), "--seed must be at most"),
    Bad("nested JSON without end", FIT, games("[" * 10**5, name="games.jsonl"), "line 1: not JSON"),
    Bad(
        "the number 1 and the text 1",
        FIT,
        games('{"winner": 1, "loser": "1"}\n{"winner": "1", "loser": 1}\n', name="games.jsonl"),
        ".*different items read alike",
    ),
    Bad("lists as items", FIT, columns(winner=[["a"]], loser=[["b"]]), "row 1: an item is missing"),
    Bad(
        "dates as counts",
        FIT,
        columns(winner=["a"], loser=["b"], count=np.array(["2020-01-01"], "datetime64[D]")),
        "row 1: `count` must be",
    ),
]
