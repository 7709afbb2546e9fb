"""Rows of any content: each is read, or left out and counted, or the run is refused in a line; and
what is read keeps its promises."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffdpo.data.text import TEXT_FORMATS
from diffdpo.data.text.messages import BadRow, message, without_nulls
from diffdpo.data.text.schema import split_common
from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.encode import Encoded
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.tokens.truncate import TRUNCATION, truncate
from tests.data.test_text_formats import ROWS
from tests.text.factory import CHATML, tokenizer

WORDS = tokenizer(CHATML)
FEW = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
KEYS = st.sampled_from(["role", "content", "from", "value", "type", "text", "tool_calls", "name"])
ANY = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(KEYS, part, max_size=3)
)


class Table(list):
    """Rows with any types in a column, which an Arrow table could not hold."""

    @property
    def column_names(self):
        return list(dict.fromkeys(name for row in self for name in row))

    def __getitem__(self, place):
        if isinstance(place, int):
            return super().__getitem__(place)
        return {name: [row.get(name) for row in self] for name in self.column_names}


@pytest.mark.parametrize("name", TEXT_FORMATS)
@settings(FEW, max_examples=15)
@given(data=st.data())
def test_no_content_of_a_row_ends_in_anything_but_a_line(name, data):
    good = ROWS[name]
    column = data.draw(st.sampled_from([*good, "tools", "chat_template_kwargs", "system"]))
    bad = {**good, column: data.draw(ANY)}
    single = name.endswith(("labels", "tags"))
    try:
        rows = TextRows(
            Table([*[good] * 3, bad]),
            WORDS,
            RowSettings(64, paired=not single, data_format=name),
        )
    except UserError as error:
        lines = error.mistakes
    else:
        lines = rows.tally.bad
        assert len(rows) + len(rows.tally.bad) + rows.tally.too_long == 4
    assert all(len(line) < 600 for line in lines)


@FEW
@given(entry=st.dictionaries(KEYS, ANY, max_size=4))
def test_a_message_has_a_known_role_and_text_or_is_a_bad_row(entry):
    try:
        made = message(entry)
    except BadRow:
        return
    assert made["role"] in ("system", "developer", "user", "assistant", "tool")
    assert made["content"] is None or isinstance(made["content"], str)


@FEW
@given(value=ANY)
def test_no_field_is_null_below(value):
    def nulls(part):
        if isinstance(part, dict):
            return any(child is None or nulls(child) for child in part.values())
        return isinstance(part, list) and any(map(nulls, part))

    assert not nulls(without_nulls(value))
    assert repr(without_nulls(without_nulls(value))) == repr(without_nulls(value))


@FEW
@given(a=st.text(alphabet="ab \n", max_size=12), b=st.text(alphabet="ab \n", max_size=12))
def test_what_texts_share_and_what_follows_are_the_texts(a, b):
    try:
        prompt, first, second = split_common(a, b)
    except BadRow:
        assert a == b or not a or not b
        return
    assert (prompt + first, prompt + second) == (a, b)
    assert first
    assert second


IDS = st.lists(st.integers(0, 9), max_size=12)


@pytest.mark.parametrize("mode", TRUNCATION)
@FEW
@given(
    prompt=IDS, sides=st.lists(IDS.filter(bool), min_size=1, max_size=2), limit=st.integers(2, 30)
)
def test_a_cut_leaves_beginnings_of_the_completions_within_the_limit(mode, prompt, sides, limit):
    full = Encoded(prompt, tuple(sides))
    try:
        cut = truncate(full, limit, 0, mode)
    except BadRow:
        return
    assert bool(cut.prompt) == bool(prompt)
    for kept, side in zip(cut.completions, sides, strict=True):
        assert kept
        assert kept == side[: len(kept)]
        assert len(cut.prompt) + len(kept) <= limit
    if len(prompt) + max(map(len, sides)) <= limit:
        assert cut == full
