"""The bytes of items that Arrow makes many at a time are those of each item by itself."""

import numpy as np
import pytest
from datasets import Dataset, concatenate_datasets

from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens.contents import contents, whole
from diffdpo.text.tokens.row_reader import RowSettings
from diffdpo.text.tokens.token_table import FEATURES, TokenTable
from tests.text.factory import tokenizer

PAIRS = [
    {
        "prompt": f"s {i % 5}" * (i % 3),
        "chosen": f" yes {i}" * (1 + i % 4),
        "rejected": f" no {i}",
    }
    for i in range(30)
]
SCORED = [row | {"score_chosen": i % 7, "score_rejected": i % 3} for i, row in enumerate(PAIRS)]
BAD = [row | {"chosen": row["rejected"]} if i == 8 else row for i, row in enumerate(PAIRS)]
SINGLE = [{"prompt": r["prompt"], "completion": r["chosen"], "label": i % 2 == 0}
          for i, r in enumerate(PAIRS)]  # fmt: skip


def by_itself(item):
    parts = [np.asarray([len(ids), *ids], np.int32).tobytes()
             for ids in (item.prompt, *item.completions)]  # fmt: skip
    return b"".join(parts) + repr((item.outcome, item.desirable)).encode() + item.look


@pytest.mark.parametrize(
    ("rows", "settings"),
    [
        (PAIRS, {}),
        (PAIRS, {"paired": False}),
        (BAD, {"paired": False}),
        (SCORED, {"soft_label_scale": 0.3}),
        (SCORED, {"soft_label_scale": 0.3, "paired": False}),
        (SINGLE, {"paired": False}),
    ],
)
def test_items_are_the_same_bytes_alone_and_together(rows, settings):
    rules = RowSettings(data_format="labels" if rows is SINGLE else "pairs", **settings)
    table = TextRows(Dataset.from_list(rows), tokenizer(), rules)
    for items in (range(len(table)), range(1, len(table), 3), [2, 0, 2, 7, 7]):
        table.row_I, table.side_I = table.placed()
        table.keep(np.array(items))
        parts = list(table.contents())
        expected = sorted(items)  # as they stand in the table
        table.row_I, table.side_I = table.placed()
        alone = [by_itself(table.read(number, 0)) for number in expected]
        assert [content for part in parts for content in part.to_pylist()] == alone
        assert b"".join(map(whole, parts)) == b"".join(alone)


def test_parts_of_a_table_pictures_and_missing_ones_are_read():
    row = dict.fromkeys(FEATURES) | {"outcome": 1.0, "seen": []}
    pair = row | {"prompt": [1], "first": [2, 3], "second": [], "sides": 2}
    seen, unusable = pair | {"look": b"abc"}, row | {"sides": 0}
    made = [
        Dataset.from_list([pair, unusable, seen], FEATURES),
        Dataset.from_list([seen], FEATURES),
    ]
    table = TokenTable(concatenate_datasets([made[0].select(range(1, 3)), *made]))
    row_I = np.array([1, 2, 5])
    (first, second, third) = (
        content for part in contents(table, row_I, 0 * row_I, True) for content in part.to_pylist()
    )
    plain = b"".join(np.int32(n).tobytes() for n in (1, 1, 2, 2, 3, 0)) + b"(1.0, None)"
    assert (first, second, third) == (plain + b"abc", plain, plain + b"abc")
