"""Pairs, votes and sessions for the tests of the page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from diffdpo.annotate.queue import Queue, QueueSettings
from diffdpo.annotate.session import Session
from diffdpo.annotate.settings import AnnotateSettings
from diffdpo.annotate.sources import open_pairs
from diffdpo.annotate.votes import Tally, Vote, VoteFile
from diffdpo.config import settings_of
from tests.factory import encoded, picture

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title='owned'\">"
ARABIC = "قطة حمراء على سطح المنزل"
PROMPTS = ["a red cat", HOSTILE, ARABIC, "a broken one", "a long one " * 40, "a dog"]
BROKEN = 3  # the row whose second picture is none


def rows(prompts: list[str] = PROMPTS, size: tuple[int, int] = (96, 96)) -> list[dict[str, Any]]:
    """Rows in Pick-a-Pic's schema; those of PROMPTS with a broken picture among them."""
    made = []
    for number, prompt in enumerate(prompts):
        both = [encoded(picture(2 * number + side, size)) for side in (0, 1)]
        if prompts is PROMPTS and number == BROKEN:
            both[1] = both[1][:40]
        row = {"jpg_0": both[0], "jpg_1": both[1], "label_0": 1.0, "label_1": 0.0}
        made.append({**row, "caption": prompt})
    return made


def data_set(folder: Path, given: list[dict[str, Any]] | None = None) -> Path:
    """A folder with these rows."""
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows() if given is None else given).to_parquet(folder / "train-0.parquet")
    return folder


def settings(*names: object, **given: Any) -> AnnotateSettings:
    """Settings of the command."""
    return settings_of(
        AnnotateSettings, names=[str(name) for name in names], **{"output_dir": "out", **given}
    )


def vote(pair: int, choice: str = "first", annotator: str = "ann", **given: Any) -> Vote:
    """A vote on a pair."""
    values = {"prompt": f"p{pair}", "first": "x", "second": "y", "left": "first", "ms": 900}
    values |= {"started": "2026-01-01T00:00:00.000+00:00", **given}
    return Vote(pair=pair, choice=choice, annotator=annotator, **values)


def queue(pairs: int, votes: Sequence[Vote] = (), clock: Any = None, **given: Any) -> Queue:
    """A queue over so many pairs; its clock stands still unless one is given."""
    given = {"repeat_share": 0.0, **given}
    return Queue(Tally(pairs, list(votes)), QueueSettings(**given), clock=clock or (lambda: 0.0))


def session(folder: Path, names: list[object], **given: Any) -> Session:
    """A session whose votes go to ``folder``."""
    pairs = open_pairs(settings(*names))
    folder.mkdir(parents=True, exist_ok=True)
    file = VoteFile(folder)
    tally = Tally(len(pairs), file.read())
    file.open()
    given = {"repeat_share": 0.0, **given}
    return Session(pairs, file, tally, Queue(tally, QueueSettings(**given)))
