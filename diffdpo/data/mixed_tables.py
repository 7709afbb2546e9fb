"""Rows of several tables, of one form and with the folders of their files, as one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import datasets
import numpy as np
from datasets import ClassLabel, Dataset, DatasetInfo, Features
from datasets.table import InMemoryTable

from diffdpo.data.columns import listed
from diffdpo.data.mixtures import mixed
from diffdpo.data.source import FOLDER
from diffdpo.engine.console import say
from diffdpo.errors import UserError, short


def mixed_tables(
    sets: Mapping[str, Dataset], strategy: str, weights: Sequence[float] | None, seed: int
) -> Dataset:
    """The rows of ``mixed``, those of the first set first, with the columns that all sets have;
    prints how many there are of each.

    Raises UserError where columns of one name hold different things.
    """
    tables = list(sets.values())
    lengths = [len(table) for table in tables]
    shares: Sequence[float | None] = weights or [None] * len(tables)
    chosen = mixed(strategy, lengths, weights, seed)
    parts = [
        f"{short(name, 60)}: {len(rows):,} of {length:,} rows"
        + (f" (weight {weight:g})" if weight else "")
        for name, rows, length, weight in zip(sets, chosen, lengths, shares, strict=True)
    ]
    say(f"data         {'; '.join(parts)}; mixed by {strategy}")
    tables = [t.select(rows) for t, rows in zip(in_one_form(sets), chosen, strict=True)]
    return datasets.concatenate_datasets(tables)


def in_one_form(sets: Mapping[str, Dataset]) -> list[Dataset]:
    """The tables with the columns that all of them have, and numbers of folders that mean the same
    in all."""
    first, *others = sets
    common = [
        name
        for name in sets[first].column_names
        if name != FOLDER and all(name in sets[other].column_names for other in others)
    ]
    every = dict.fromkeys(name for table in sets.values() for name in table.column_names)
    if gone := [name for name in every if name not in (*common, FOLDER)]:
        say(f"data         not in all of the data sets, and not read: {listed(gone)}")
    for other in others:
        own = (sets[other].features, sets[first].features)
        if odd := [name for name in common if own[0][name] != own[1][name]]:
            raise UserError(
                f"--dataset_name: {listed(odd)} of {short(other, 60)} hold other things than those"
                f" of {short(first, 60)}; make one data set of them"
            )
    return with_folders([table.select_columns(common) for table in sets.values()], sets)


def with_folders(tables: Sequence[Dataset], sets: Mapping[str, Dataset]) -> list[Dataset]:
    """The tables with the folder of every row's file, '' of rows that come from none."""
    own = [
        table.features[FOLDER].names if FOLDER in table.column_names else [""]
        for table in sets.values()
    ]
    names = list(dict.fromkeys(name for folders in own for name in folders))
    found = []
    for table, given, folders in zip(tables, sets.values(), own, strict=True):
        numbers = np.array([names.index(folder) for folder in folders], dtype=np.int64)
        if FOLDER in given.column_names:
            place = given.select_columns(FOLDER).with_format("numpy")[:][FOLDER]
        else:
            place = np.zeros(len(given), dtype=np.int64)
        features = Features({FOLDER: ClassLabel(names=names)})
        column = InMemoryTable.from_pydict({FOLDER: numbers[place]})
        marked = Dataset(column, DatasetInfo(features=features))
        found.append(datasets.concatenate_datasets([table, marked], axis=1))
    return found
