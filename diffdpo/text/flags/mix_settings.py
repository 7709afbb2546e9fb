"""The flags that name data sets of text, one or several with weights, to train on and held out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Self

from diffdpo.data.mixture_settings import MixtureSettings, weight_problems, whole_already
from diffdpo.data.strategies import CONCAT, OF_MIXTURE, OF_SET
from diffdpo.errors import short
from diffdpo.flags import flag
from diffdpo.text.flags.sources import (
    Source,
    distinct,
    entry_problems,
    labelled,
    parted,
    plain_entry,
    shares_of,
    split_words,
    twice,
)
from diffdpo.text.flags.table_settings import TextTableSettings

BY_KEY = {"fraction": OF_MIXTURE, "weight": OF_SET}


@dataclass(frozen=True)
class MixSettings(TextTableSettings, MixtureSettings):
    """The data sets of a text run."""

    dataset_name: list[str] = flag(
        [],
        "hub ids, folders or files of preferences, one or several",
        aliases=["--dataset"],
        group="data",
    )
    datasets: list[dict[str, Any]] = flag(
        [],
        "data sets as TRL lists them, in place of dataset_name: each with path, and as it likes"
        " name, split, columns, fraction",
        group="data",
    )
    dataset_config: str | None = flag(
        None, "configuration of a hub data set", aliases=["--dataset_config_name"], group="data"
    )
    dataset_train_split: str = flag("train", "split to train on", group="data")
    dataset_test_split: str = flag(
        "test", "split that is held out, where eval_strategy asks for one", group="data"
    )
    eval_dataset_name: list[str] = flag(
        [],
        "held-out rows from elsewhere: hub ids, folders or files; of several, and of NAME=DATA,"
        " each has figures of its own",
        aliases=["--eval_dataset"],
        group="data",
    )

    @property
    def sources(self) -> list[Source]:
        """The data sets to train on."""
        plain = Source("", self.dataset_train_split, self.dataset_config, self.dataset_columns)
        if self.datasets:
            entries = [plain_entry(entry) for entry in self.datasets]
            found = [
                Source(
                    entry["path"],
                    entry.get("split", plain.split),
                    entry.get("name", plain.config),
                    entry.get("columns", plain.columns),
                )
                for entry in entries
            ]
        else:
            found = [replace(plain, name=name) for name in split_words(self.dataset_name)]
        return labelled(found)

    @property
    def held_out_sources(self) -> list[Source]:
        """The data sets to measure on: those named for it, or a split of those to train on."""
        split = self.dataset_test_split
        if not self.eval_dataset_name:
            return labelled(distinct([replace(one, split=split) for one in self.sources]))
        given = [parted(word) for word in split_words(self.eval_dataset_name)]
        plain = Source("", split, self.dataset_config, self.dataset_columns)
        found = labelled([replace(plain, name=name) for _, name in given])
        both = zip(found, given, strict=True)
        return [replace(one, label=label or one.label) for one, (label, _) in both]

    @property
    def mixing(self) -> tuple[str, list[float] | None]:
        """How the data sets are mixed, and their weights."""
        found = shares_of([plain_entry(entry) for entry in self.datasets])
        key, weights = found if self.datasets and found else ("fraction", self.dataset_weights)
        default = BY_KEY[key] if weights else CONCAT
        return self.mix_strategy or default, weights or None

    @property
    def is_mixed(self) -> bool:
        """Whether rows of data sets are chosen or put together before training."""
        strategy, weights = self.mixing
        return len(self.sources) > 1 or (strategy == OF_SET and weights != [1])

    def in_plain_flags(self) -> Self:
        """The same with the one entry of ``datasets`` told by the flags for one data set."""
        if len(self.datasets) != 1 or self.is_mixed:
            return self
        (one,) = self.sources
        return replace(
            self,
            datasets=[],
            dataset_name=[one.name],
            dataset_config=one.config,
            dataset_train_split=one.split,
            dataset_columns=one.columns,
        )

    def problems(self) -> list[str]:
        lines = super().problems()
        if wrong := entry_problems(self.datasets):
            return lines + wrong  # what is no entry has no source
        lines += self.one_way() + self.weight_problems()
        lines += twice(self.sources, "datasets" if self.datasets else "dataset_name")
        count = Counter(one.label for one in self.held_out_sources)
        return lines + [
            f"--eval_dataset_name: {number} data sets are called {short(label)}; write NAME=DATA"
            " for each"
            for label, number in count.items()
            if number > 1
        ]

    def one_way(self) -> list[str]:
        """A line for what is said in two places, or nowhere read."""
        if not self.datasets:
            return []
        entries = [plain_entry(entry) for entry in self.datasets]
        lines = ["--datasets and --dataset_name exclude each other; keep one"]
        lines *= bool(self.dataset_name)
        if shares_of(entries) and self.dataset_weights:
            lines.append("--dataset_weights: the entries of --datasets have their own; keep one")
        flags = {"split": ("dataset_train_split", self.dataset_train_split != "train")}
        flags |= {"name": ("dataset_config", self.dataset_config is not None)}
        flags |= {"columns": ("dataset_columns", bool(self.dataset_columns))}
        return lines + [
            f"--{name}: every entry of --datasets has its own {key}; leave it out"
            for key, (name, given) in flags.items()
            if given and all(key in entry for entry in entries)
        ]

    def weight_problems(self) -> list[str]:
        """Why the data sets cannot be mixed so."""
        (strategy, weights), count = self.mixing, len(self.sources)
        lines = weight_problems(strategy, weights, count)
        return lines or whole_already(strategy, self.dataset_weights, count)
