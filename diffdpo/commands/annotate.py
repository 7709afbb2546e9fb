"""Serves a page on which people choose between two pictures, texts or clips; writes what they
chose."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np

from diffdpo.annotate.agreement import strength_gain
from diffdpo.annotate.export import check_folder, export
from diffdpo.annotate.guard import Rules, is_loopback
from diffdpo.annotate.pairs import Pairs
from diffdpo.annotate.queue import Queue, QueueSettings
from diffdpo.annotate.record import check_record, write_record
from diffdpo.annotate.server import application, listening, serve
from diffdpo.annotate.session import Session
from diffdpo.annotate.settings import AnnotateSettings
from diffdpo.annotate.sources import open_pairs
from diffdpo.annotate.votes import Tally, Vote, VoteFile
from diffdpo.engine import lock
from diffdpo.engine.console import say
from diffdpo.engine.run_folder import writable
from diffdpo.errors import UserError

TOKEN_BYTES = 16


def main(settings: AnnotateSettings) -> int:
    """Serve until Ctrl-C or SIGTERM, then write the result; with ``--export`` write it at once.
    Returns the exit code."""
    folder = Path(str(settings.output_dir))
    if settings.export is not None:
        return write_result(settings, folder, Path(settings.export))
    folder, result = writable(str(folder)), folder / "pairs"
    check_folder(result)
    lock.take(folder, "serves its page")
    try:
        pairs = open_pairs(settings)
        check_record(folder, pairs, settings.seed)
        session = begun(settings, folder, pairs)
        write_record(folder, pairs, settings.seed)
        session.file.open()
        serve_page(settings, session)
        session.file.close()
        finish(settings, session, result)
    finally:
        lock.release()
    return 0


def begun(settings: AnnotateSettings, folder: Path, pairs: Pairs) -> Session:
    """The session with the votes of the folder; prints what there is."""
    file = VoteFile(folder)
    tally = Tally(len(pairs), file.read(fits(pairs)))
    say(
        f"pairs        {len(pairs)} {pairs.what}",
        *(f"left out     {line}" for line in pairs.skipped),
    )
    so_far = f"{tally.count_P.sum()} so far, of {tally.people} people; " if tally.lines else ""
    say(f"votes        {so_far}at most {settings.votes_per_pair} a pair; {file.path}")
    say(*(f"note         {note}" for note in [*file.notes, *tally.notes]))
    rules = QueueSettings(
        settings.seed,
        settings.votes_per_pair,
        settings.repeat_share,
        priority_first=settings.order == "gain",
    )
    return Session(pairs, file, tally, Queue(tally, rules, priority(settings.order, pairs, tally)))


def fits(pairs: Pairs) -> Callable[[Vote], bool]:
    """Whether a vote is on one of these pairs: a file may have been joined with another's."""
    return lambda vote: vote.pair < len(pairs) and vote.prompt == pairs.prompt(vote.pair)


def serve_page(settings: AnnotateSettings, session: Session) -> None:
    """Print the address and serve until a signal comes."""
    token = settings.token
    if token is None and not is_loopback(settings.host):
        token = secrets.token_urlsafe(TOKEN_BYTES)
    found = listening(settings.host, settings.port)
    rules = Rules(settings.host, found.getsockname()[1], token)
    say(
        "end          Ctrl-C; the votes stay, and the same command goes on",
        f"open         {rules.url}",
    )
    serve(application(session, rules), found)


def finish(settings: AnnotateSettings, session: Session, result: Path) -> None:
    """Write the result, where there is any."""
    if not session.tally.count_P.sum():
        say("result       none: no pair has a vote")
        return
    say(*export(result, session.pairs, session.tally, settings.both_bad, settings.seed))


def write_result(settings: AnnotateSettings, folder: Path, result: Path) -> int:
    """Write the result of the votes so far, also while a page is served."""
    file = VoteFile(folder)
    if not file.path.is_file():
        raise UserError(f"--output_dir {folder}: holds no {file.path.name}; nothing to export")
    check_folder(result)
    pairs = open_pairs(settings)
    check_record(folder, pairs, settings.seed)
    tally = Tally(len(pairs), file.read(fits(pairs)))
    say(*(f"note         {note}" for note in [*file.notes, *tally.notes]))
    if not tally.count_P.sum():
        raise UserError(f"{file.path}: holds no vote; nothing to export")
    say(*export(result, pairs, tally, settings.both_bad, settings.seed))
    return 0


def priority(order: str, pairs: Pairs, tally: Tally) -> Callable[[], np.ndarray] | None:
    """The numbers by which ``--order`` puts pairs first. Raises UserError where the pairs do not
    have them."""
    if order == "disagreement":
        if len(pairs.scores) < 2:
            raise UserError(
                "--order disagreement: the pairs have columns NAME_0 and NAME_1 of"
                f" {len(pairs.scores)} scores; two or more are needed (diffdpo score makes them)"
            )
        gaps = np.stack(list(pairs.scores.values()))
        divided = np.minimum((gaps > 0).sum(axis=0), (gaps < 0).sum(axis=0))
        return lambda: divided
    if order == "gain":
        if len(pairs.runs) < 3:
            raise UserError("--order gain: is for the order of three runs or more")
        return Gain(pairs, tally)
    return None


class Gain:
    """What one more vote on each pair tells of the order of the runs, by the votes so far."""

    def __init__(self, pairs: Pairs, tally: Tally) -> None:
        self.pairs, self.tally = pairs, tally
        self.names = [frozenset(pairs.names(pair)) for pair in range(len(pairs))]
        self.lines, self.gains = -1, np.zeros(len(pairs))

    def __call__(self) -> np.ndarray:
        if self.lines != self.tally.lines:
            gains = strength_gain(self.tally.votes, self.pairs.runs)
            self.gains = np.array([gains[name] for name in self.names])
            self.lines = self.tally.lines
        return self.gains
