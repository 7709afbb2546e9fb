"""The flags that say how several data sets are mixed, of images and of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffdpo.config import BaseSettings
from diffdpo.data.strategies import CONCAT, OF_MIXTURE, OF_SET, STRATEGIES
from diffdpo.flags import flag


@dataclass(frozen=True)
class MixtureSettings(BaseSettings):
    """Weights of data sets, and what they mean."""

    dataset_weights: list[float] = flag(
        [],
        "a weight for each data set; what it means says mix_strategy",
        group="data",
        above=0,
    )
    mix_strategy: str | None = flag(
        None,
        "of several data sets: concat, all rows; of_mixture, weights are shares of the mixture"
        " (TRL); of_set, shares of each set (alignment-handbook); interleave_under and"
        " interleave_over, probabilities of draws until the first or the last set is through"
        " (LLaMA-Factory). Default: concat, with weights of_mixture",
        choices=STRATEGIES,
        group="data",
    )


def weight_problems(strategy: str, weights: Sequence[float] | None, count: int) -> list[str]:
    """Why ``count`` data sets cannot be mixed so."""
    if not weights:
        wanted = strategy in (OF_MIXTURE, OF_SET)
        return [f"--mix_strategy {strategy} goes by --dataset_weights; give them"] * wanted
    lines = []
    if len(weights) != count:
        lines.append(f"--dataset_weights: {len(weights)} weights for {count} data sets")
    if strategy == CONCAT:
        lines.append("--mix_strategy concat takes all rows; leave the weights out")
    if strategy == OF_SET and max(weights) > 1:
        lines.append(
            "--mix_strategy of_set: a weight is a share of its data set, at most 1, and one is"
            f" {max(weights):g}"
        )
    return lines


def whole_already(strategy: str, weights: Sequence[float] | None, count: int) -> list[str]:
    """A line for a weight of a single data set that changes nothing."""
    if count == 1 and weights and strategy != OF_SET:
        return ["--dataset_weights: there is one data set, which is taken whole"]
    return []
