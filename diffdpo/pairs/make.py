"""From prompts to labelled pairs, for pictures and texts alike: candidates, scores, selection.

Shapes: ``P`` prompts, ``N`` candidates of each, ``R`` rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from datasets import Dataset, Features, Value

from diffdpo.cache.keys import Key
from diffdpo.data.made_pairs import WEIGHT
from diffdpo.engine.console import say
from diffdpo.errors import UserError, not_installed
from diffdpo.pairs.record import is_finished, write_once, write_pairs
from diffdpo.pairs.select import Chosen, Pair, SelectSettings, combined, select
from diffdpo.pairs.tables import (
    Layout,
    candidates,
    is_sampled,
    prompt_key,
    scores,
    scores_key,
)
from diffdpo.report.plots import gap_histogram

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Judge:
    """A reward of candidates: what its scores depend on, and the scores of stored rows."""

    identity: Mapping[str, str]
    signature: str  # the same in one line, with precision and device
    of: Callable[[Dataset, Sequence[int]], np.ndarray]


@dataclass(frozen=True)
class Source:
    """What makes the candidates of one modality and turns two of them into a row."""

    prompts: list[str]  # by which draws are made
    key: Key  # of the table of candidates
    features: Features  # of its rows, which have a column "digest"
    prepare: Callable[[], object]  # loads what samples
    compute: Callable[[range], Rows]
    judges: Mapping[str, Judge]
    facts: Mapping[str, Any]  # for the record
    sides: tuple[str, str]  # what the columns of the two sides end in
    columns: Features  # of what ``row`` gives
    # … of two rows of the table; None where these are none to train on.
    row: Callable[[Dataset, Pair, tuple[int, int]], dict[str, Any] | None]
    # Files beside the pairs, by name: made of the table, its layout and the pairs.
    pages: Callable[[Dataset, Layout, Chosen], dict[str, bytes]]
    ties: bool = True  # whether rows of equal scores are written


@dataclass(frozen=True)
class Plan:
    """What the settings ask for beside the source."""

    folder: Path
    candidates: int
    batch: int  # candidates judged at once
    root: str  # where tables are
    select: SelectSettings


def planned(source: Source, prompts: Any, lines: Mapping[str, str]) -> dict[str, str]:
    """What will happen, by heading: the ``lines`` of a modality between what all have. ``prompts``
    is what the prompts are called."""
    judges = (f"{name} ({judge.signature})" for name, judge in source.judges.items())
    return {
        "prompts": f"{len(source.prompts):,} of {prompts}",
        **lines,
        "rewards": "; ".join(judges),
    }


def make(source: Source, plan: Plan, accelerator: Accelerator) -> None:
    """Sample, judge, select, write; whatever is stored already is read."""
    layout = Layout(len(source.prompts), plan.candidates)
    keys = {name: scores_key(source.key, j.signature) for name, j in source.judges.items()}
    facts = made_by(source, plan, keys)
    if is_finished(plan.folder, facts):
        say(f"pairs        finished before: {plan.folder}")
        return
    if not is_sampled(plan.root, source.key, layout, accelerator):
        source.prepare()
    table = candidates(plan.root, source.key, source.features, layout, source.compute, accelerator)
    judges = {name: partial(judge.of, table) for name, judge in source.judges.items()}
    score_PNR = scores(plan.root, keys, layout, judges, plan.batch, accelerator)
    if not accelerator.is_main_process:
        return
    chosen = select(score_PNR, [prompt_key(p) for p in source.prompts], plan.select)
    say(*findings(chosen, score_PNR, source, table, layout, plan))
    check(chosen, source, plan)

    def write() -> None:
        rows = pair_rows(source, table, layout, chosen, score_PNR)
        pages = {**source.pages(table, layout, chosen), **gaps_page(chosen, list(source.judges))}
        record = {
            "rewards": {name: dict(judge.identity) for name, judge in source.judges.items()},
            "made_by": facts,
            "counts": counts(chosen, layout),
        }
        features = Features({**source.columns, **score_columns(source)})
        write_pairs(plan.folder, rows, features, record, pages)

    write_once(plan.folder, facts, write)


def check(chosen: Chosen, source: Source, plan: Plan) -> None:
    """Raise UserError where no pair is left to be written."""
    if len(chosen.pairs) > (0 if source.ties else chosen.ties):
        return
    if chosen.close:
        raise UserError(
            f"--min_gap {plan.select.min_gap:g}: none of {chosen.close:,} pairs lies so far apart;"
            " take a smaller one"
        )
    if chosen.contradicted:
        raise UserError(
            f"--select {plan.select.select}: of no prompt is one candidate better than another by"
            " all rewards; take fewer rewards or more --candidates"
        )
    raise UserError("all candidates of every prompt have equal scores; nothing can be learned")


def made_by(source: Source, plan: Plan, keys: Mapping[str, Key]) -> dict[str, Any]:
    """All that decides the pairs, for the record."""
    return {
        **source.facts,
        "candidates": plan.candidates,
        "select": plan.select.select,
        "min_gap": plan.select.min_gap,
        "soft_labels": plan.select.soft_labels,
        "tables": {"candidates": source.key.folder, **{n: key.folder for n, key in keys.items()}},
    }


def counts(chosen: Chosen, layout: Layout) -> dict[str, Any]:
    """What became of the prompts."""
    return {
        "prompts": layout.prompts,
        "pairs": len(chosen.pairs),
        "effective_pairs": chosen.effective,
        "ties": chosen.ties,
        "below_min_gap": chosen.close,
        "contradicted": chosen.contradicted,
    }


def findings(
    chosen: Chosen,
    score_PNR: np.ndarray,
    source: Source,
    table: Dataset,
    layout: Layout,
    plan: Plan,
) -> list[str]:
    """The lines about the pairs."""
    left = [f"{chosen.ties:,} of equal scores{'' if source.ties else ', left out'}"]
    if plan.select.min_gap:
        left.append(f"{chosen.close:,} closer than {plan.select.min_gap:g} left out")
    if chosen.contradicted:
        left.append(f"{chosen.contradicted:,} prompts left out, on which the rewards contradict")
    lines = [
        f"pairs        {len(chosen.pairs):,} from {layout.prompts:,} prompts by"
        f" {plan.select.select}: {'; '.join(left)}"
    ]
    if len(chosen.pairs):
        low, middle, high = np.quantile(chosen.gap_B, [0.25, 0.5, 0.75])
        unit = next(iter(source.judges)) if len(source.judges) == 1 else "standard deviations"
        lines.append(
            f"gaps         quartiles {low:.3g}, {middle:.3g}, {high:.3g} in {unit}; all two of a"
            f" prompt {mean_gap(combined(score_PNR)):.3g} in the mean"
        )
        lines.append(
            f"labels       as good as {chosen.effective:,.4g} certain pairs (the sum of |2p - 1|)"
        )
    if same := repeated(table["digest"][:], layout):
        lines.append(f"note         {same:,} of {layout.rows:,} candidates are another's twin")
    return lines


def mean_gap(score_PN: np.ndarray) -> float:
    """The mean difference of any two candidates of a prompt."""
    score_PN = np.sort(score_PN, axis=1)
    count = score_PN.shape[1]
    # The k-th smallest is larger than k others and smaller than N − 1 − k.
    weight_N = 2 * np.arange(count) - (count - 1)
    return float((score_PN * weight_N).sum(axis=1).mean() / (count * (count - 1) / 2))


def repeated(digests: Sequence[str], layout: Layout) -> int:
    """How many candidates are the same as an earlier one of their prompt."""
    distinct = {(layout.of(row)[0], digest) for row, digest in enumerate(digests)}
    return len(digests) - len(distinct)


def score_columns(source: Source) -> Features:
    """The columns that stand beside those of the pair itself."""
    columns = {
        f"{n}_{s}": Value("float64") for n in (*source.judges, "score") for s in source.sides
    }
    columns |= {f"candidate_{side}": Value("int64") for side in source.sides}
    return Features({**columns, WEIGHT: Value("float64")})


def pair_rows(
    source: Source, table: Dataset, layout: Layout, chosen: Chosen, score_PNR: np.ndarray
) -> Rows:
    """The rows of the data set: each pair with its scores and the numbers of its candidates."""
    score_PN = combined(score_PNR)
    for pair in chosen.pairs:
        if not (source.ties or pair.gap):
            continue
        both = pair.sides if source.ties else pair.chosen_first
        first, second = (layout.row(pair.prompt, candidate) for candidate in both)
        row = source.row(table, pair, (first, second))
        if row is None:
            continue
        for side, candidate in zip(source.sides, both, strict=True):
            named = dict(zip(source.judges, score_PNR[pair.prompt, candidate], strict=True))
            named["score"] = score_PN[pair.prompt, candidate]
            row |= {f"{name}_{side}": float(score) for name, score in named.items()}
            row[f"candidate_{side}"] = candidate
        yield {**row, WEIGHT: pair.weight}


def gaps_page(chosen: Chosen, rewards: Sequence[str]) -> dict[str, bytes]:
    """The distribution of gaps as a picture, where matplotlib is installed."""
    if not chosen.pairs or not_installed("matplotlib"):
        return {}
    return {"gaps.png": gap_histogram(chosen.gap_B.tolist(), ", ".join(rewards))}
