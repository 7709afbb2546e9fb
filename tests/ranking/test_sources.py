"""Every way to hand over comparisons gives the same fit; bad rows are reported where they stand."""

import json
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pandas
import pyarrow
import pyarrow.parquet
import pytest

from diffdpo.errors import UserError
from diffdpo.ranking import files, fit_bradley_terry
from diffdpo.ranking.sources import read_comparisons
from tests.ranking.games import random_games, random_table

NAMES = ["ann", "bob", "cy d", "eva", "zoë"]
PAIRS = [(NAMES[w], NAMES[x]) for w, x in random_games(5, 150)]
TABLE = {"winner": [w for w, _ in PAIRS], "loser": [x for _, x in PAIRS]}
EXPECTED = fit_bradley_terry(PAIRS)


def same(ranking):
    assert ranking.items == EXPECTED.items
    np.testing.assert_allclose(ranking.strength, EXPECTED.strength, atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        list,
        iter,
        np.array,
        lambda pairs: (pair for pair in pairs),
        lambda pairs: [list(pair) for pair in pairs],
        lambda pairs: [(*pair, 1) for pair in pairs],
        lambda pairs: [pairs[0], *((*pair, 1) for pair in pairs[1:])],
        lambda pairs: [{"winner": w, "loser": x} for w, x in pairs],
        lambda pairs: TABLE,
        lambda pairs: pandas.DataFrame(TABLE),
        lambda pairs: pandas.DataFrame(TABLE).astype("category"),
        lambda pairs: pyarrow.table(TABLE),
        lambda pairs: datasets.Dataset.from_dict(TABLE),
        lambda pairs: pyarrow.table(
            {k: pyarrow.array(v).dictionary_encode() for k, v in TABLE.items()}
        ),
        lambda pairs: {
            "first": [x for _, x in pairs],
            "second": TABLE["winner"],
            "outcome": np.zeros(150),
        },
    ],
)
def test_in_memory(make):
    same(fit_bradley_terry(make(PAIRS)))


def write(folder: Path, suffix: str, table: dict) -> Path:
    path = folder / f"games{suffix}"
    frame = pandas.DataFrame(table)
    if suffix == ".parquet":
        frame.to_parquet(path, index=False, row_group_size=40)
    elif suffix == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("batch", [7, 1 << 18])
def test_files_of_every_kind_in_batches_of_any_size(tmp_path, monkeypatch, suffix, batch):
    monkeypatch.setattr(files, "BATCH", batch)
    monkeypatch.setattr(files, "TEXT_BATCH", batch)
    same(fit_bradley_terry(write(tmp_path, suffix, TABLE)))
    same(
        fit_bradley_terry(
            str(write(tmp_path, suffix, {"b": TABLE["loser"], "a": TABLE["winner"]})),
            columns={"winner": "a", "loser": "b"},
        )
    )
    full = random_table(5, 200)
    expected = fit_bradley_terry(full, ties="davidson", home=True)
    ranking = fit_bradley_terry(write(tmp_path, suffix, full), ties="davidson", home=True)
    np.testing.assert_allclose(ranking.strength, expected.strength, atol=1e-10)
    assert ranking.home.value == pytest.approx(expected.home.value)


@pytest.mark.parametrize("batch", [1 << 14, 150])
@pytest.mark.parametrize("field", [{"outcome": 0.25}, {"tie": 1}, {"count": 3}])
def test_a_field_that_the_first_records_lack_is_read(tmp_path, monkeypatch, field, batch):
    monkeypatch.setattr(files, "TEXT_BATCH", batch)
    early = [{"winner": w, "loser": x} for w, x in ("ab", "ba", "bc", "ca")] * 50
    late = [{"winner": "a", "loser": "b", **field}, {"winner": "a", "loser": "b", "wieght": 9}] * 40
    path = tmp_path / "games.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*early, *late]))
    with pytest.warns(UserWarning, match="columns not read: wieght"):
        found = fit_bradley_terry(path)
    for rows in ([*early, *late], [*late, *early]):
        np.testing.assert_allclose(fit_bradley_terry(rows).strength, found.strength, atol=1e-12)
    plain = fit_bradley_terry([(row["winner"], row["loser"]) for row in [*early, *late]])
    assert abs(found.strength - plain.strength).max() > 0.01


def test_items_may_be_anything_hashable():
    games = [((1, 2), "x"), ("x", 3.5), (3.5, frozenset("ab")), (frozenset("ab"), (1, 2))]
    assert fit_bradley_terry(games).items == [(1, 2), "x", 3.5, frozenset("ab")]


def test_numbers_in_a_csv_stay_names(tmp_path):
    path = tmp_path / "games.csv"
    path.write_text("winner,loser\n007,7\n7,007\n")
    assert fit_bradley_terry(path).items == ["007", "7"]


def test_empty_first_means_neither_side_had_the_advantage():
    table = random_table(4, 200)
    some = table["first"].astype(object)
    some[:50] = None
    cells = read_comparisons({**table, "first": some}, use_order=True).cells
    assert cells.count[cells.order == 0].sum() == 50


CSV = """winner,loser,count,weight,tie,outcome,first
a,b,1,1,0,1,a
a,a,1,1,0,1,a
a,,1,1,0,1,a
a,b,-1,1,0,1,a
a,b,nan,1,0,1,a
a,b,1.5,1,0,1,a
a,b,many,1,0,1,a
a,b,1,-2,0,1,a
a,b,1,inf,0,1,a
a,b,1,1,2,1,a
a,b,1,1,0,1.5,a
a,b,1,1,0,1,c
a,b,1,1,0

b,a,3,1,0,1,"a"
b,a,0,1,0,1,
"""
FAULTS = {
    3: "an item against itself",
    4: "an item is missing",
    5: "`count` must be",
    6: "`count` must be",
    7: "`count` must be",
    8: "`count` must be",
    9: "`weight` must be",
    10: "`weight` must be",
    11: "`tie` must be",
    12: "`outcome` must lie",
    13: "`first` names neither",
    14: "5 fields where the header has 7",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_bad_row_is_reported_with_its_line(tmp_path, line):
    lines = CSV.splitlines()
    kept = [text if k in (1, 2, 15, 16, 17, line) else "" for k, text in enumerate(lines, start=1)]
    path = tmp_path / "games.csv"
    path.write_text("\n".join(kept) + "\n")
    with pytest.raises(UserError) as error:
        fit_bradley_terry(path, home=True)
    head, reason = error.value.mistakes
    assert head == f"{path}: 1 of 4 rows cannot be used"
    assert reason.startswith(f"line {line}: {FAULTS[line]}")


def test_many_bad_rows_are_an_error_that_shows_the_first(tmp_path):
    path = tmp_path / "games.csv"
    path.write_text(CSV)
    with pytest.raises(UserError) as error:
        fit_bradley_terry(path, home=True)
    assert error.value.mistakes[0] == f"{path}: 12 of 15 rows cannot be used"
    assert len(error.value.mistakes) == 1 + 5 + 1
    assert error.value.mistakes[-1] == "… and 7 more"


def test_few_bad_rows_are_left_out(tmp_path):
    path = tmp_path / "games.jsonl"
    good = [json.dumps({"winner": w, "loser": x}) for w, x in PAIRS]
    path.write_text(
        "\n".join([*good[:100], '{"winner": "ann"', '{"winner": "ann"}', "[]", "", *good[100:]])
    )
    with pytest.warns(UserWarning, match="left out 3 of 153 rows"):
        ranking = fit_bradley_terry(path)
    same(ranking)
    assert [line.split(":")[0] for line in ranking.skipped[1:]] == [
        "line 101",
        "line 102",
        "line 103",
    ]


def test_an_item_of_bad_rows_alone_is_not_ranked():
    with pytest.warns(UserWarning, match="left out 1"):
        same(fit_bradley_terry([*PAIRS, ("ghost", "ghost")]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.csv", None, "no such file"),
        ("a.xlsx", b"x", "files ending in .xlsx are not read"),
        ("a.csv", b"", "found none"),
        ("a.csv", b"winner,loser\n", "no comparisons"),
        ("a.csv", b"ann,bob\ncy,ann\n", "needs the columns `winner` and `loser`.*found ann, bob"),
        ("a.csv", b"winner,loser\n\xff\xfe,b\n", "cannot be read"),
        ("a.csv", b'winner,loser\n"ann,bob\nbob,ann\nann,bob\n', "up to line 4"),
        ("a.csv", b'winner,loser\nann,"bob"s\n"bob,ann\n', "cannot be read up to line 2"),
        ("a.jsonl", b'{"won": 1}\n', "found won"),
        ("a.parquet", b"PAR1 not", "cannot be read"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, said):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        fit_bradley_terry(path)


@pytest.mark.parametrize(
    ("comparisons", "beside", "said"),
    [
        (["ab", "bc"], {}, "row 0 is 'ab'"),
        ([("a", "b"), ("a",)], {}, r"row 1 is \('a',\)"),
        (7, {}, "got int"),
        ([], {}, "no comparisons"),
        (np.zeros(3), {}, "has shape"),
        (PAIRS, {"count": [1, 2]}, "columns of different lengths"),
        (PAIRS, {"home": True}, "add a column `first`"),
        ([(["a"], "b")], {}, "an item is missing, or a list"),
        ({"winner": ["a", 1], "loser": [1, "1"]}, {}, "different items read alike.*: 1;"),
        (PAIRS, {"count": np.full(150, 2e15)}, "must be at most 1e\\+15"),
        (PAIRS, {"weight": np.full(150, 1e-300)}, "`weight` must be 0 or a number from 1e-15"),
        (PAIRS, {"count": np.full(150, "2020-01-01", "datetime64[D]")}, "must be a whole number"),
        (PAIRS, {"weight": np.full(150, 1j)}, "`weight` must be"),
        ({"winner": ["a"]}, {}, "found winner"),
        (PAIRS, {"outcome": np.full(150, 0.7), "ties": "davidson"}, "soft outcomes"),
    ],
)
def test_values_that_cannot_be_used(comparisons, beside, said):
    with pytest.raises(UserError, match=said):
        fit_bradley_terry(comparisons, **beside)


MEASURE = """
import resource, sys, time
from diffdpo.ranking import fit_bradley_terry
import pyarrow.parquet
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, start = peak(), time.perf_counter()
ranking = fit_bradley_terry(sys.argv[1])
print(peak() - before, time.perf_counter() - start, int(ranking.games.sum() / 2))
"""


def big_parquet(path: Path, rows: int) -> None:
    """Written in pieces, with names for items, so that nothing here needs the whole file either."""
    names = pyarrow.array([f"checkpoint-{k:04d}" for k in range(300)])
    writer = None
    for piece in range(0, rows, 500_000):
        pairs = random_games(300, min(500_000, rows - piece), seed=piece)
        table = pyarrow.table({"winner": names.take(pairs[:, 0]), "loser": names.take(pairs[:, 1])})
        writer = writer or pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)
    writer.close()


def measured(path: Path) -> list[float]:
    finished = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    return [float(number) for number in finished.stdout.split()]


@pytest.mark.parametrize("rows", [1_000_000, pytest.param(10_000_000, marks=pytest.mark.slow)])
def test_parquet_streams_in_memory_that_does_not_follow_the_rows(tmp_path, rows):
    path = tmp_path / "games.parquet"
    big_parquet(path, rows)
    megabytes, seconds, games = measured(path)
    assert games == rows
    assert (
        megabytes < 400
    )  # ten million rows of two names are 300 MB as text, and over a gigabyte as Python objects
    assert seconds < 10 + rows / 400_000
