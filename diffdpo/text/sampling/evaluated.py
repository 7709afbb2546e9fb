"""What an evaluation of language models reads: the pairs to judge on and the prompts to continue,
with the pictures in them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.draws import picked_rows
from diffdpo.errors import UserError
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from diffdpo.text.flags.table_settings import TABLE
from diffdpo.text.reading.inputs import open_table, place_of, rows_of
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.prompts import Asked, alone, are_alone
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.vision.pictures import Look, Pictures
from diffdpo.text.vision.rows import sight_of
from diffdpo.text.vision.sight import Sight
from diffdpo.text.vision.words import Eyes

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """Pairs and prompts, and what reads the pictures in them; None where they have none."""

    pairs: TextRows
    prompts: list[Asked]
    sight: Sight | None


def read_texts(
    settings: EvaluateTextSettings, tokenizer: PreTrainedTokenizerBase, eyes: Eyes | None
) -> Reading:
    """The pairs and prompts that the settings name. ``eyes`` read the pictures of an image–text
    model.

    Raises UserError where they cannot be had, or no row has a prompt.
    """
    pairs, _ = read_rows(settings, str(settings.dataset_name), tokenizer, eyes, paired=True)
    prompts, sight = asked_prompts(settings, tokenizer, eyes)
    sight = sight_of(pairs) or sight
    if sight and settings.generator_url:
        raise UserError("--generator_url: no pictures are sent to a service; leave it out")
    return Reading(pairs, prompts, sight)


def asked_prompts(
    settings: EvaluateTextSettings, tokenizer: PreTrainedTokenizerBase, eyes: Eyes | None
) -> tuple[list[Asked], Sight | None]:
    """Distinct prompts to continue, picked by the seed, and what reads their pictures. Raises
    UserError where there is none."""
    name = str(settings.prompts_name)
    table, _ = open_table(name, settings.split, own_settings(settings, name), "--split")
    if are_alone(table.column_names):
        every = alone(table, tokenizer, **(settings.chat_template_kwargs or {}))
        return picked(every, settings), None
    # Read as single items, a form that rows of pairs can be brought into as well.
    rows, table = read_rows(settings, name, tokenizer, eyes, paired=False)
    first: dict[tuple[tuple[int, ...], bytes], tuple[int, int]] = {}  # item and row of every one
    for number, item in enumerate(rows.viewed()):
        first.setdefault((tuple(item.prompt), item.look), (number, item.row))
    found = [(*prompt, *place) for prompt, place in first.items() if prompt[0]]
    asked = [
        Asked(
            array("i", tokens),
            rows.prompt(table[row]),
            look=Look(look, partial(pictures_of, rows, number)) if look else None,
        )
        for tokens, look, number, row in picked(found, settings)
    ]
    return asked, sight_of(rows)


def picked(every: Sequence[T], settings: EvaluateTextSettings) -> list[T]:
    """At most ``--num_prompts`` of all prompts. Raises UserError where there is none."""
    if not every:
        raise UserError(f"--prompts_name {settings.prompts_name}: no row has a prompt")
    return [every[i] for i in picked_rows(settings.seed, settings.num_prompts, len(every))]


def pictures_of(rows: TextRows, number: int) -> Pictures | None:
    """The pictures of an item."""
    return rows.read(number, 0).pictures


def own_settings(settings: EvaluateTextSettings, name: str) -> EvaluateTextSettings:
    """The settings by which the data set ``name`` is opened: another than that of the pairs has its
    own configuration and columns."""
    if name == settings.dataset_name:
        return settings
    plain = EvaluateTextSettings()
    none: dict[str, Any] = {each: getattr(plain, each) for each in ["dataset_config", *TABLE]}
    return replace(settings, **none)


def read_rows(
    settings: EvaluateTextSettings,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    eyes: Eyes | None,
    paired: bool,
) -> tuple[TextRows, Dataset]:
    """The rows of the data set ``name`` to judge on, tokenised and as they are."""
    data_format = settings.data_format if name == settings.dataset_name else None
    own = own_settings(settings, name)
    table, entry = open_table(name, settings.split, own, "--split")
    rules = RowSettings(
        settings.max_length,
        paired,
        data_format=data_format,
        truncation_mode=settings.truncation_mode,
        chat_template_kwargs=settings.chat_template_kwargs or {},
        registered=entry,
        in_parts=eyes is not None,
    )
    place, processes = place_of(name, own), settings.dataset_num_proc
    return rows_of(table, tokenizer, rules, eyes, place, processes=processes), table
