"""Prompts as tokens, and prompts whose instructions a rule can verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.data.text.messages import Text, without_nulls
from diffdpo.data.text.record import is_note
from diffdpo.data.text.schema import user_turn
from diffdpo.errors import UserError
from diffdpo.metrics.formats import Instruction, read_instructions
from diffdpo.text.tokens.chat import apply_template, opening
from diffdpo.text.tokens.encode import tokenize
from diffdpo.text.vision.cells import column_of
from diffdpo.text.vision.pictures import Look

INSTRUCTIONS = "instructions"  # the column


@dataclass(frozen=True)
class Asked:
    """A prompt to continue: its tokens, itself as text or conversation, what it asks for."""

    tokens: Sequence[int]
    prompt: Text
    instructions: list[Instruction] = field(default_factory=list)
    look: Look | None = None  # the pictures in it


def are_alone(columns: list[str]) -> bool:
    """Whether a table has prompts, and nothing beside them but instructions and notes."""
    others = [name for name in columns if name != "prompt" and not is_note(name)]
    return INSTRUCTIONS in columns or ("prompt" in columns and not others)


def alone(table: Dataset, tokenizer: PreTrainedTokenizerBase, **options: Any) -> list[Asked]:
    """The distinct prompts of a table with the column ``prompt`` and perhaps ``instructions``. One
    of text is the user's words where the tokenizer has a chat template, of which ``options`` are
    arguments.

    Raises UserError, with the first row concerned, where either cannot be read.
    """
    if "prompt" not in table.column_names:
        raise UserError(f"data: a column {INSTRUCTIONS} needs a column prompt beside it")
    if (pictures := column_of(table.column_names)) is not None:
        raise UserError(f"data: column {pictures}: prompts without sides are text alone; drop it")
    found: dict[tuple[int, ...], Asked] = {}
    own = [name for name in ("prompt", INSTRUCTIONS) if name in table.column_names]
    for number, row in enumerate(table.select_columns(own)):
        prompt: Text = without_nulls(row["prompt"])
        if not prompt or not isinstance(prompt, (str, list)):
            raise UserError(f"data: row {number}: prompt must be text or a conversation")
        if isinstance(prompt, str) and tokenizer.chat_template:
            prompt = user_turn(prompt)
        try:
            instructions = read_instructions(row[INSTRUCTIONS]) if INSTRUCTIONS in row else []
        except ValueError as error:
            raise UserError(f"data: row {number}: {INSTRUCTIONS}: {error}") from error
        tokens = tuple(prompt_tokens(prompt, tokenizer, **options))
        found.setdefault(tokens, Asked(tokens, prompt, instructions))
    return list(found.values())


def prompt_tokens(prompt: Text, tokenizer: PreTrainedTokenizerBase, **options: Any) -> list[int]:
    """The tokens of a prompt, up to where the completion begins; ``options`` are the template's."""
    if isinstance(prompt, str):
        return tokenize(prompt, tokenizer, templated=False)
    text = apply_template(tokenizer, prompt, **opening(prompt), **options)
    return tokenize(text, tokenizer, templated=True)
