"""The settings of pairs from prompts that pictures and texts share."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.data.paths import missing_data
from diffdpo.engine.settings import TrainSettings
from diffdpo.flags import flag, restated
from diffdpo.pairs.select import SELECTIONS, SelectSettings


@dataclass(frozen=True)
class CandidateSettings(BaseSettings):
    """Which prompts get how many candidates, and which of these become pairs."""

    prompts: str | None = flag(
        None,
        "what to sample: a .txt, .tsv, .json or .jsonl file, or a data set with prompts; default:"
        " the prompts of the pairs in dataset_name",
        group="data",
    )
    num_prompts: int | None = flag(
        None, "at most so many distinct prompts; default: all", group="data", least=1
    )
    candidates: int = flag(
        4,
        "samples of each prompt; a larger number later adds to those that are stored",
        group="evaluation",
        least=2,
        most=10_000,
    )
    select: str = flag(
        "best_worst",
        "a row of diffdpo.pairs.select.SELECTIONS: which candidates become pairs",
        group="rewards",
        choices=list(SELECTIONS),
    )
    min_gap: float = flag(
        0.0,
        "leave out pairs whose scores lie closer; of several rewards in standard deviations",
        group="rewards",
        least=0,
    )
    soft_labels: float | None = flag(
        None,
        "label pairs with sigmoid(gap / this), the scores' temperature; default: 0, 1, or 0.5 for"
        " equal scores",
        group="rewards",
        above=0,
    )
    precompute_dir: str = restated(
        TrainSettings,
        "precompute_dir",
        help="where candidates and scores are kept, to be found again",
    )

    def problems(self) -> list[str]:
        return [*super().problems(), *(f"--prompts: {line}" for line in missing_data(self.prompts))]

    def selection(self, seed: int) -> SelectSettings:
        """How pairs are chosen and labelled."""
        return SelectSettings(self.select, self.min_gap, self.soft_labels, seed)
