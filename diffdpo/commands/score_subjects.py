"""What the command ``score`` judges: pairs of pictures, pictures of a folder, or texts.

Shapes: ``N`` items, ``P`` pairs of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from diffdpo.commands.score_settings import PICTURES, TEXTS, ScoreSettings
from diffdpo.data import image_formats, text
from diffdpo.data.columns import listed, renamed
from diffdpo.data.decode import Limits
from diffdpo.data.source import FOLDER, open_with_folders
from diffdpo.errors import UserError
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.reading.pairs import image_pairs
from diffdpo.image.sampling.judged import PairPictures, folder_pictures
from diffdpo.metrics.reward import Reward
from diffdpo.metrics.stored import Items
from diffdpo.metrics.text_reward import TextReward
from diffdpo.text.reading.rows import first_record
from diffdpo.text.sampling.judged import TextItems, judged_texts

Judge = Reward | TextReward


@dataclass(frozen=True)
class Subject:
    """Items, and which of them are pairs."""

    kind: str
    items: Callable[[Judge], Items]  # as a reward reads them
    count: int  # of items
    number_P2: np.ndarray | None  # the items of each pair; None where items stand alone
    outcome_P: np.ndarray  # P(first ≻ second) of the labels
    prompts: list[str]  # of every pair, or item
    facts: Callable[[int], dict[str, Any]]  # of a pair or item, for its line
    what: str  # for the start
    pictures: PairPictures | None = None  # of pairs of pictures


def open_subject(settings: ScoreSettings) -> Subject:
    """What the settings name. Raises UserError where it cannot be opened."""
    if settings.images:
        return folder(settings)
    name = str(settings.dataset_name)
    split, config = settings.dataset_split_name, settings.dataset_config_name
    rows = open_with_folders(name, split, config, settings.cache_dir, "--split")
    kinds = settings.kinds or told_by_columns(rows, settings)
    return pictures(rows, settings) if PICTURES in kinds else texts(rows, settings)


def told_by_columns(rows: Dataset, settings: ScoreSettings) -> set[str]:
    """What data are, by their columns. Raises UserError where these fit pictures and texts."""
    columns, asked = [name for name in rows.column_names if name != FOLDER], settings.data_format
    found = set()
    if fits(lambda: image_formats.detect(columns, settings.columns, asked)):
        found.add(PICTURES)
    if fits(lambda: text.detect(*named(rows, settings), asked)):
        found.add(TEXTS)
    if len(found) < 2:
        return found or {PICTURES}  # whose error line says what is needed
    first, record = settings.chosen_column or "chosen", first_record(rows)
    if isinstance(record.get(first), str):
        raise UserError(
            f"data: columns {listed(columns, 90)} may hold pictures or texts; name a --data_format"
        )
    return {TEXTS if holds_messages(record.get(first)) else PICTURES}


def holds_messages(cell: Any) -> bool:
    """Whether a cell, which is no text, holds a message or a list of them."""
    message = cell[0] if isinstance(cell, list) and cell else cell
    return isinstance(message, dict) and bool({"role", "from"} & set(message))


def named(rows: Dataset, settings: ScoreSettings) -> tuple[list[str], dict[str, Any]]:
    """Columns and the first row under the names of text formats."""
    table = renamed(rows, settings.columns)
    return [name for name in table.column_names if name != FOLDER], first_record(table)


def fits(detect: Callable[[], object]) -> bool:
    """Whether a format is found."""
    try:
        detect()
    except UserError:
        return False
    return True


def limits_of(settings: ScoreSettings) -> Limits:
    """Which pictures are judged."""
    return Limits(settings.max_image_pixels, settings.max_image_ratio)


def pictures(rows: Dataset, settings: ScoreSettings) -> Subject:
    """The pairs of a data set of pictures, also those whose label is a tie."""
    framing = FrameSettings(settings.seed, 0, ties="soft", limits=limits_of(settings))
    name, asked = str(settings.dataset_name), settings.data_format
    pairs = image_pairs(rows, framing, name, settings.columns, asked, settings.cache_dir)
    items, tally = PairPictures(pairs), pairs.tally

    def facts(at: int) -> dict[str, Any]:
        pair = int(pairs.rows[at])
        own = {"row": pairs.row_of(pair), "prompt": pairs.captions[pair]}
        if pairs.ranked is not None:
            own["pictures"] = pairs.ranked.sides_P2[pair].tolist()
        return {**own, "label": float(pairs.first_wins[pair])}

    source = "rows" if tally.rankings is None else f"pairs of {tally.rankings:,} rankings"
    return Subject(
        PICTURES,
        lambda reward: items,
        len(items),
        items.number_P2,
        pairs.first_wins[pairs.rows],
        pairs.prompts(),
        facts,
        f"{len(pairs):,} pairs of {tally.rows:,} {source}, {len(items):,} pictures",
        items,
    )


def folder(settings: ScoreSettings) -> Subject:
    """The pictures of a folder."""
    items = folder_pictures(str(settings.images), settings.prompts, limits_of(settings))
    bare = items.prompts.count("")
    return Subject(
        PICTURES,
        lambda reward: items,
        len(items),
        None,
        np.empty(0),
        items.prompts,
        lambda at: {"file": items.named(at), "prompt": items.prompts[at]},
        f"{len(items):,} pictures" + (f", {bare:,} of them without a caption" if bare else ""),
    )


def texts(rows: Dataset, settings: ScoreSettings) -> Subject:
    """The completions of a data set of texts."""
    rows = rows.remove_columns(FOLDER) if FOLDER in rows.column_names else rows
    judged = judged_texts(renamed(rows, settings.columns), settings.data_format)
    both = {chats: TextItems(judged, chats) for chats in (False, True)}
    paired, bad = judged.sides == 2, len(judged.tally.bad)

    def facts(at: int) -> dict[str, Any]:
        own = {"row": judged.rows[at], "prompt": judged.prompts[at]}
        return {**own, "label": 1.0 if paired else judged.desirable[at]}

    what = "pairs" if paired else "completions"
    return Subject(
        TEXTS,
        lambda reward: both[getattr(reward, "reads_chats", False)],
        len(judged.tails),
        np.arange(len(judged.tails)).reshape(-1, 2) if paired else None,
        np.ones(len(judged.rows)) if paired else np.empty(0),
        judged.keys,
        facts,
        f"{len(judged.rows):,} {what}" + (f", {bad:,} rows cannot be used" if bad else ""),
    )


def check_captions(subject: Subject, rewards: Iterable[tuple[str, Judge]]) -> None:
    """Raises UserError where a reward reads prompts and pictures have none."""
    missing = subject.prompts.count("")
    if subject.kind != PICTURES or not missing:
        return
    if subject.number_P2 is not None and missing < len(subject.prompts):
        return  # as in training, a pair may have none
    for name, reward in rewards:
        if getattr(reward, "reads_prompts", False):
            raise UserError(
                f"--reward {name}: reads prompts, and {missing:,} of {len(subject.prompts):,}"
                " pictures have none; write captions to metadata.jsonl or to .txt files beside"
                " them, or name --prompts"
            )
