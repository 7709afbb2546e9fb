"""The command line: strengths and ranks from a comparisons file."""

from __future__ import annotations

import argparse
import difflib
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from diffdpo.errors import UserError
from diffdpo.ranking.fit import INTERVALS, fit_bradley_terry
from diffdpo.ranking.report import PLOT_FORMATS, pyplot, table, write_json, write_plot
from diffdpo.ranking.sources import ROLES
from diffdpo.ranking.ties import CHOICES

COMPARISONS = """csv, tsv, jsonl or parquet with the columns winner, loser (or first, second,
outcome) and, optional, count (equal comparisons), weight (what one counts for), tie (0/1), first
(the item shown first)"""
TIES = (
    "a tie is half a win for each (default), has a parameter of its own (davidson, rao-kupper), or"
    " is left out"
)
PRIOR = """independent normal priors on the strengths with mean 0 and this standard deviation, in
nats; gives finite strengths where the comparisons alone do not"""
INTERVAL = (
    "standard errors by the model (fisher, default), robust to it (sandwich), or by resampling"
    " games"
)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (--help lists the flags)")


def parser() -> Parser:
    """Every flag, once."""
    p = Parser(
        prog="fit_bradley_terry",
        description="Strengths and ranks from a comparisons file.",
        allow_abbrev=False,
    )
    add = p.add_argument
    add("--comparisons", type=Path, help=COMPARISONS)
    add("--output", type=Path, help="write everything here as json")
    add("--plot", type=Path, help="write a forest plot here (png, pdf, svg)")
    add("--ties", choices=CHOICES, default="half", help=TIES)
    add(
        "--home",
        action="store_true",
        help="estimate the advantage of the item shown first; needs the column first",
    )
    add("--prior_std", type=float, help=PRIOR)
    add("--interval", choices=INTERVALS, default="fisher", help=INTERVAL)
    add(
        "--level",
        type=float,
        default=0.95,
        help="how often an interval should cover (default 0.95)",
    )
    add("--bootstrap_samples", type=int, default=1000, help="how many resamples (default 1000)")
    add("--seed", type=int, default=0, help="of the resamples")
    for role in ROLES:
        add(
            f"--{role}_column",
            metavar="NAME",
            default=role,
            help=f"if the column {role} has another name",
        )
    return p


def parsed(argv: list[str] | None) -> argparse.Namespace:
    """The settings; all mistakes that can be seen before the data are read."""
    p = parser()
    arguments, unknown = p.parse_known_args(argv)
    flags = [flag for flag in p._option_string_actions if flag.startswith("--")]
    mistakes = [_unknown(word, flags) for word in unknown]
    if arguments.comparisons is None:
        mistakes.append(
            "--comparisons FILE is needed: csv, tsv, jsonl or parquet with the columns winner,"
            " loser"
        )
    for path in filter(None, (arguments.output, arguments.plot)):
        if path.is_dir():
            mistakes.append(f"{path}: is a folder, not a file")
        elif not path.parent.is_dir():
            mistakes.append(f"{path}: there is no folder {path.parent}")
    if arguments.plot is not None:
        pyplot()  # a missing matplotlib is better found now than after the fit
        if arguments.plot.suffix not in PLOT_FORMATS:
            mistakes.append(
                f"--plot {arguments.plot}: the name must end in {', '.join(PLOT_FORMATS)}"
            )
    if mistakes:
        raise UserError(*mistakes)
    return arguments


def _unknown(word: str, flags: list[str]) -> str:
    close = difflib.get_close_matches(word.split("=")[0], flags, n=1)
    return f"unknown argument {word}" + (f"; did you mean {close[0]}?" if close else "")


def run(arguments: argparse.Namespace) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows left out are printed below, a line each
        ranking = fit_bradley_terry(
            arguments.comparisons,
            columns={role: getattr(arguments, f"{role}_column") for role in ROLES},
            ties=arguments.ties,
            home=arguments.home,
            prior_std=arguments.prior_std,
            interval=arguments.interval,
            level=arguments.level,
            bootstrap_samples=arguments.bootstrap_samples,
            seed=arguments.seed,
            progress=True,
        )
    for line in ranking.skipped:
        print(f"warning: {line}", file=sys.stderr)
    print(table(ranking))
    for path, write in ((arguments.output, write_json), (arguments.plot, write_plot)):
        try:
            if path is not None:
                write(ranking, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0, or 2 where the caller made a mistake, told in a line each."""
    try:
        run(parsed(argv))
    except UserError as error:
        for mistake in error.mistakes:
            print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0
