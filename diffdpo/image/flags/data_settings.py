"""The flags that name data sets of pairs of pictures, one or several with weights."""

from __future__ import annotations

from dataclasses import dataclass

from diffdpo.data.mixture_settings import MixtureSettings, weight_problems, whole_already
from diffdpo.data.paths import missing_data, split_words
from diffdpo.data.strategies import CONCAT, OF_MIXTURE
from diffdpo.flags import flag


@dataclass(frozen=True)
class PairDataSettings(MixtureSettings):
    """Where pairs come from."""

    dataset_name: str | None = flag(
        None,
        "hub id, folder or file of preference pairs, several with commas between them; default:"
        " bundled",
        group="data",
    )
    dataset_config_name: str | None = flag(None, "configuration of a hub data set", group="data")
    dataset_split_name: str = flag("train", "split to read", aliases=["--split"], group="data")
    train_data_dir: str | None = flag(
        None, "folder of pairs, where dataset_name is not given", group="data"
    )

    @property
    def datasets(self) -> list[str]:
        """The data sets of pairs that are named."""
        data = self.dataset_name or self.train_data_dir
        return split_words([data]) if data else []

    @property
    def mixing(self) -> tuple[str, list[float] | None]:
        """How several data sets are mixed, and their weights."""
        weights = self.dataset_weights or None
        return self.mix_strategy or (OF_MIXTURE if weights else CONCAT), weights

    def problems(self) -> list[str]:
        lines = super().problems()
        lines += [line for name in self.datasets for line in missing_data(name)]
        (strategy, weights), count = self.mixing, max(1, len(self.datasets))
        lines += weight_problems(strategy, weights, count) or whole_already(
            strategy, weights, count
        )
        if count > 1 and getattr(self, "streaming", False):
            lines.append("--streaming reads one data set of pictures, and several are named")
        return lines
