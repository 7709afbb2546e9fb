"""The key of a table of tokens: all that they depend on."""

from __future__ import annotations

import datetime
import io
import json
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pyarrow as pa
import tokenizers
import transformers
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from diffdpo.cache.keys import Key, digest, short_hash
from diffdpo.extensions import is_own
from diffdpo.text.tokens.row_reader import RowReader

# The version of how rows become tokens. Raise it with a change in a format, in the rendering or in
# the encoding after which a row has other tokens, or another reason for having none.
VERSION = "5"
STEP = 1024  # rows hashed at once
# Of a tokenizer's files: the template is a fact of its own, and these say how it was loaded and
# what it was last called with.
NOT_WORDS = {"chat_template", "truncation", "padding", "is_local", "local_files_only"}
NOT_WORDS |= {"name_or_path", "model_max_length"}


def token_key(reader: RowReader, dataset: Dataset) -> Key:
    """The key of the tokens of all rows of a data set."""
    words, settings = reader.tokenizer, reader.settings
    template = json.dumps(words.chat_template, sort_keys=True)
    facts = {
        "data": data_digest(dataset),
        "tokenizer": tokenizer_digest(words),
        "chat template": digest(template),
        "format": f"{reader.name} {format_digest(reader)}".strip(),
        **{f"--{name}": str(getattr(settings, name)) for name in DECIDE},
        "libraries": ", ".join(
            f"{library.__name__} {library.__version__}"
            for library in (datasets, tokenizers, transformers)
        ),
        "version": VERSION,
    }
    facts |= reader.facts(dataset)
    if "strftime_now" in template:  # it writes the date into the text
        facts["date"] = datetime.date.today().isoformat()
    return Key("tokens", facts)


# Not whether pairs are taken apart: both losses on pairs and on single completions read the same.
DECIDE = [
    "max_length",
    "truncation_mode",
    "soft_label_scale",
    "min_score_margin",
    "data_format",
    "chat_template_kwargs",
    "in_parts",
]


def data_digest(dataset: Dataset) -> str:
    """A digest of all cells of a data set and of the names and types of its columns."""
    # Not the library's own fingerprint: it changes with the time at which a file was written.
    total = short_hash()
    total.update(json.dumps(dataset.features.to_dict(), default=str).encode())
    rows = dataset.with_format("arrow")
    for first in range(0, len(rows), STEP):
        batch = rows[first : first + STEP].combine_chunks()
        sink = pa.PythonFile(Hashed(total), "w")
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_table(batch)
    return str(total.hexdigest())


class Hashed(io.RawIOBase):
    """A file that nothing is kept of but a digest."""

    def __init__(self, total: Any) -> None:
        self.total = total

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """Add some bytes."""
        self.total.update(data)
        return len(data)


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of all that a tokenizer makes tokens with: the files that it is saved as."""
    total = short_hash()
    total.update(type(tokenizer).__qualname__.encode())
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file() and path.suffix != ".jinja":
                total.update(path.name.encode() + words_of(path))
    return str(total.hexdigest())


def words_of(path: Path) -> bytes:
    """The content of a tokenizer's file, as far as tokens depend on it."""
    if path.name not in ("tokenizer.json", "tokenizer_config.json"):
        return path.read_bytes()
    content = json.loads(path.read_text(encoding="utf-8"))
    # In the order of the file: merges and normalisers are applied in it.
    return json.dumps({k: v for k, v in content.items() if k not in NOT_WORDS}).encode()


def format_digest(reader: RowReader) -> str:
    """What a format's name does not say: the content of a user's file, or the entry of a registry;
    '' of a format of the table."""
    if reader.settings.registered:
        return digest(json.dumps(described(reader.format.read)))
    if not is_own(reader.name):
        return ""
    return digest(Path(reader.name.rpartition(":")[0]).read_bytes())


def described(value: Any) -> Any:
    """A function with the arguments that it has been given, as names and values."""
    if isinstance(value, partial):
        return [described(part) for part in (value.func, *value.args)]
    return f"{value.__module__}.{value.__qualname__}" if callable(value) else value
