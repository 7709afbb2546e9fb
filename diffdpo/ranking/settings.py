"""The flags of ``fit_bradley_terry``; importing them loads numpy, and nothing larger."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffdpo.config import BaseSettings
from diffdpo.errors import not_installed, short
from diffdpo.flags import SEEDS, flag
from diffdpo.ranking.columns import ROLES
from diffdpo.ranking.fit import INTERVALS
from diffdpo.ranking.report import PLOT_FORMATS
from diffdpo.ranking.ties import CHOICES


def renamed(role: str) -> str:
    """The flag that gives the column of a role another name."""
    name: str = flag(role, f"if the column {role} has another name", group="data")
    return name


@dataclass(frozen=True)
class RankingSettings(BaseSettings):
    """All flags of ``fit_bradley_terry.py``."""

    comparisons: str | None = flag(
        None,
        "csv, tsv, jsonl or parquet with the columns winner, loser (or first, second, outcome) and,"
        " optional, count (equal comparisons), weight (what one counts for), tie (0/1), first (the"
        " item shown first)",
        group="data",
    )
    output: str | None = flag(None, "write everything here as json")
    plot: str | None = flag(None, "write a forest plot here (png, pdf, svg)")
    ties: str = flag(
        "half",
        "a tie is half a win for each (half), has a parameter of its own (davidson, rao-kupper), or"
        " is left out (drop)",
        group="model",
        choices=CHOICES,
    )
    home: bool = flag(
        False,
        "estimate the advantage of the item shown first; needs the column first",
        group="model",
    )
    prior_std: float | None = flag(
        None,
        "independent normal priors on the strengths with mean 0 and this standard deviation, in"
        " nats; gives finite strengths where the comparisons alone do not",
        group="model",
    )
    interval: str = flag(
        "fisher",
        "standard errors by the model (fisher), robust to it (sandwich), or by resampling games"
        " (bootstrap)",
        group="evaluation",
        choices=INTERVALS,
    )
    level: float = flag(0.95, "how often an interval should cover", group="evaluation")
    bootstrap_samples: int = flag(1000, "how many resamples", group="evaluation")
    seed: int = flag(0, "of the resamples", group="evaluation", **SEEDS)
    winner_column: str = renamed("winner")
    loser_column: str = renamed("loser")
    first_column: str = renamed("first")
    second_column: str = renamed("second")
    outcome_column: str = renamed("outcome")
    count_column: str = renamed("count")
    weight_column: str = renamed("weight")
    tie_column: str = renamed("tie")

    @property
    def columns(self) -> dict[str, str]:
        """The name of the column for each role."""
        return {role: getattr(self, f"{role}_column") for role in ROLES}

    def idle(self) -> dict[str, str]:
        resampling = ["bootstrap_samples", "seed"] if self.interval != "bootstrap" else []
        return super().idle() | dict.fromkeys(resampling, "it is that of --interval bootstrap")

    def problems(self) -> list[str]:
        lines = super().problems()
        if self.comparisons is None:
            lines.append(
                "--comparisons FILE is needed: csv, tsv, jsonl or parquet with the columns winner,"
                " loser"
            )
        for name in filter(None, (self.output, self.plot)):
            if Path(name).is_dir():
                lines.append(f"{name}: is a folder, not a file")
            elif not Path(name).parent.is_dir():
                lines.append(f"{name}: there is no folder {Path(name).parent}")
        if self.plot is not None:
            if Path(self.plot).suffix not in PLOT_FORMATS:
                lines.append(f"--plot {self.plot}: the name must end in {', '.join(PLOT_FORMATS)}")
            lines += not_installed("matplotlib")
        named = [("comparisons", self.comparisons), ("output", self.output), ("plot", self.plot)]
        places = [(flag, Path(name).resolve()) for flag, name in named if name is not None]
        lines += [
            f"--{other} and --{flag} name the same file, {short(place)}"
            for at, (flag, place) in enumerate(places)
            for other, same in places[:at]
            if place == same
        ]
        return lines
