"""Reads Anthropic-HH's rows: two whole transcripts that differ in the assistant's last words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffdpo.data.text.messages import BadRow
from diffdpo.data.text.schema import Example, pair

LAST_TURN = "\n\nAssistant:"


def is_transcript(record: Mapping[str, Any]) -> bool:
    """Whether both sides are texts with turns of a human and an assistant."""
    sides = [record["chosen"], record["rejected"]]
    return all(
        isinstance(side, str) and side.startswith("\n\nHuman:") and LAST_TURN in side
        for side in sides
    )


def transcripts(record: Mapping[str, Any]) -> Example:
    """Reads chosen, rejected; the prompt ends with the last ``Assistant:`` of the chosen one.

    Raises BadRow where the transcripts differ before it.
    """
    chosen, rejected = record["chosen"], record["rejected"]
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise BadRow("chosen and rejected are not both text")
    # Not the common prefix: answers that begin alike would lose their first words to the prompt.
    cut = chosen.rfind(LAST_TURN) + len(LAST_TURN)
    if cut < len(LAST_TURN) or rejected[:cut] != chosen[:cut]:
        raise BadRow("the transcripts differ before the assistant's last turn")
    return pair(chosen[:cut], chosen[cut:], rejected[cut:], record)
