"""Bradley–Terry strengths and ranks of items from a comparisons file."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from diffdpo.engine.output import check_written
from diffdpo.errors import UserError
from diffdpo.ranking import Ranking, fit_bradley_terry
from diffdpo.ranking.report import table, write_json, write_plot
from diffdpo.ranking.settings import RankingSettings


def main(settings: RankingSettings) -> int:
    """Fit, print the table, write the requested files; returns the exit code."""
    ranking = fitted(settings)
    for line in ranking.skipped:
        print(f"warning: {line}", file=sys.stderr)
    for path, write in ((settings.output, write_json), (settings.plot, write_plot)):
        try:
            if path is not None:
                write(ranking, Path(path))
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror})") from error
    print(table(ranking))
    check_written()
    return 0


def fitted(settings: RankingSettings) -> Ranking:
    """The fit that the settings describe."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # rows left out are printed, a line each
        return fit_bradley_terry(
            settings.comparisons,
            columns=settings.columns,
            ties=settings.ties,
            home=settings.home,
            prior_std=settings.prior_std,
            interval=settings.interval,
            level=settings.level,
            bootstrap_samples=settings.bootstrap_samples,
            seed=settings.seed,
            progress=True,
        )
