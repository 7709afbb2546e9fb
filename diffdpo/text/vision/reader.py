"""Rows with pictures -> tokens: a processor says what stands in the place of a picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from datasets import Dataset

from diffdpo.data.cells import Find
from diffdpo.data.text.messages import BadRow
from diffdpo.data.text.record import Record
from diffdpo.data.text.schema import Example
from diffdpo.errors import short
from diffdpo.text.tokens.chat import Rendered
from diffdpo.text.tokens.encode import Encoded
from diffdpo.text.tokens.row_reader import RowReader, RowResult
from diffdpo.text.tokens.truncate import PromptTooLong
from diffdpo.text.vision.cells import cells_of, digest_of_files, opened
from diffdpo.text.vision.places import in_parts, marked, placed
from diffdpo.text.vision.sight import Sight


@dataclass(frozen=True)
class PictureReader(RowReader):
    """Reads records whose ``column`` holds the pictures of the prompt; ``find`` gives the file of a
    name."""

    sight: Sight
    column: str
    find: Find

    # The processor takes as long for one picture as the tokenizer for a hundred rows.
    kept_in_memory: ClassVar[int] = 128

    def facts(self, dataset: Dataset) -> dict[str, str]:
        return {
            "processor": self.sight.identity,
            "--column of pictures": self.column,
            "pictures in files": digest_of_files(dataset, self.column, self.find),
        }

    def opened(self, record: Mapping[str, Any]) -> Record:
        own = {name: v if name == self.column else marked(v) for name, v in record.items()}
        row = Record(own, pictures=True)
        row.seen.add(self.column)
        return row

    def example(self, record: Record) -> Example:
        texts = {name: value for name, value in record.items() if name != self.column}
        count = len(cells_of(record, self.column))
        return placed(super().example(record), count, in_parts(texts))

    def written(self, result: RowResult, record: Record, example: Example) -> Rendered:
        cells = cells_of(record, self.column)
        rendered = super().written(result, record, example)
        check_marks(rendered, len(cells), self.sight)
        if not cells:
            return rendered
        images, result.look = opened(cells, self.find)
        places = self.sight.see(images).places
        prompt, *wholes = (
            self.sight.expanded(text, places) for text in (rendered.prompt, *rendered.wholes)
        )
        return replace(rendered, prompt=prompt, wholes=tuple(wholes))

    def fitted(self, result: RowResult, whole: Encoded) -> Encoded:
        encoded = super().fitted(result, whole)
        kept, all_of = (self.count(ids.prompt) for ids in (encoded, whole))
        if kept < all_of:  # a picture that is cut could not be read
            raise PromptTooLong(len(whole.prompt), int(self.settings.max_length or 0))
        if any(map(self.count, encoded.completions)):
            raise BadRow("a completion holds the tokens of a picture; only prompts may")
        return encoded

    def count(self, ids: list[int]) -> int:
        """The tokens that stand in the place of pictures."""
        return sum(map(ids.count, self.sight.marks))


def check_marks(rendered: Rendered, count: int, sight: Sight) -> None:
    """Raises BadRow where a text has another number of places than the row has pictures, or one
    for a video."""
    mark = sight.mark
    for text in (rendered.prompt, *rendered.wholes):
        if (found := text.count(mark)) != count:
            who = "the chat template writes" if rendered.templated else "the text has"
            raise BadRow(f"the row has {count} pictures, and {who} {short(mark)} {found} times")
        if sight.video_mark and sight.video_mark in text:
            raise BadRow(f"the text has {short(sight.video_mark)}, and videos are not read")
