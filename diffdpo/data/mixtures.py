"""Which rows of several data sets a mixture has, and how often: a pure function of their numbers of
rows, their weights and the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffdpo.data.strategies import CONCAT, OF_MIXTURE, OF_SET, OVER
from diffdpo.draws import Purpose, generator
from diffdpo.errors import UserError

BLOCK = 1000  # draws made at once, as many as in datasets.interleave_datasets
MOST = 100  # times as many draws as there are rows; more is a slip of the hand

Rows = list[NDArray[np.int64]]


def mixed(
    strategy: str, lengths: Sequence[int], weights: Sequence[float] | None, seed: int
) -> Rows:
    """The rows of each data set, ascending; one that is drawn several times is there as often.

    ``concat`` takes all rows. ``of_mixture``: weights are shares of the mixture, which is as large
    as it can be without a row twice; the first rows of each are taken, as TRL does with
    ``fraction``. ``of_set``: each weight is a share of that set, picked by the seed, as
    alignment-handbook does. ``interleave_under`` and ``interleave_over``: sets are drawn with these
    probabilities, or without any in turn, each going through its rows again and again, until the
    first one, or every one, has been gone through; as ``datasets.interleave_datasets`` does.

    Raises UserError where a data set gets no row, or the draws would hardly come to an end.
    """
    if strategy == CONCAT:
        return [np.arange(length) for length in lengths]
    if strategy == OF_SET:
        assert weights is not None, "shares of each set are given"
        both = zip(lengths, weights, strict=True)
        return filled([picked(n, w, seed, i) for i, (n, w) in enumerate(both)])
    shares = np.array(weights) / sum(weights) if weights else None
    if strategy == OF_MIXTURE:
        assert shares is not None, "shares of the mixture are given"
        total = min(length / share for length, share in zip(lengths, shares, strict=True))
        return filled([np.arange(round(share * total)) for share in shares])
    if shares is None:
        counts = np.full(len(lengths), max(lengths) if strategy == OVER else min(lengths))
    else:
        check_draws(lengths, shares, strategy)
        random = generator(seed, Purpose.MIXTURE)
        counts = drawn(lengths, shares, strategy == OVER, random)
    times = zip(counts, lengths, strict=True)
    return filled([np.sort(np.arange(count) % length) for count, length in times])


def told_weight(weights: Sequence[float] | None, number: int) -> str:
    """The weight of a data set behind its format, in the line on a mixture; '' of none."""
    return f", weight {weights[number]:g}" if weights else ""


def picked(length: int, share: float, seed: int, number: int) -> NDArray[np.int64]:
    """A share of the rows of set number ``number``, rounded down."""
    order = generator(seed, Purpose.MIXTURE, item=number + 1).permutation(length)
    return np.sort(order[: int(length * share)])


def drawn(
    lengths: Sequence[int],
    shares: NDArray[np.float64],
    over: bool,
    random: np.random.Generator,
) -> NDArray[np.int64]:
    """How often each set is drawn with these probabilities until the first of them, or with
    ``over`` every one, has been drawn as often as it has rows."""
    blocks, counts = [], np.zeros(len(lengths), dtype=np.int64)
    ended = all if over else any
    while not ended(counts >= lengths):
        blocks.append(random.choice(len(lengths), size=BLOCK, p=shares))
        counts += np.bincount(blocks[-1], minlength=len(lengths))
    sets = np.concatenate(blocks)
    last = [np.flatnonzero(sets == i)[n - 1] for i, n in enumerate(lengths) if counts[i] >= n]
    end = max(last) if over else min(last)
    return np.bincount(sets[: end + 1], minlength=len(lengths))


def check_draws(lengths: Sequence[int], shares: NDArray[np.float64], strategy: str) -> None:
    """Raises UserError where far more draws are to be expected than there are rows."""
    needed = np.array(lengths) / shares
    count = int(needed.max() if strategy == OVER else needed.min())
    if count > MOST * sum(lengths):
        raise UserError(
            f"--mix_strategy {strategy}: about {count:,} draws of {sum(lengths):,} rows; choose"
            " weights that are less apart"
        )


def filled(rows: Rows) -> Rows:
    """The rows. Raises UserError where a data set has none."""
    for number, own in enumerate(rows, 1):
        if not len(own):
            raise UserError(
                f"--dataset_weights: no row of data set {number} is left; leave it out, or give it"
                " more weight"
            )
    return rows
