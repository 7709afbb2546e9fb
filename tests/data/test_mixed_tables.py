"""Several tables of pairs as one: rows, columns, and the folders that names are relative to."""

import pytest
from datasets import Dataset

from diffdpo.data.mixed_tables import mixed_tables
from diffdpo.data.mixtures import mixed
from diffdpo.data.places import Place
from diffdpo.data.source import FOLDER, open_with_folders
from diffdpo.errors import UserError
from tests.text.factory import write_jsonl


@pytest.fixture
def sets(tmp_path):
    """Three sets of files, each in its own folder."""
    found = {}
    for name, count in (("a", 5), ("b", 8), ("c", 3)):
        (tmp_path / name).mkdir()
        rows = [{"prompt": f"{name}{row}", "chosen": f"{row}.png"} for row in range(count)]
        write_jsonl(tmp_path / name / "train.jsonl", rows)
        found[name] = open_with_folders(str(tmp_path / name), "train", None, None, "--split")
    return found


def folder_of(table, row):
    return table.features[FOLDER].int2str(table[row][FOLDER])


STRATEGIES = [("concat", None), ("of_mixture", [1, 2, 1]), ("of_set", [1, 0.5, 0.4])]
STRATEGIES += [("interleave_over", [0.2, 0.5, 0.3])]


@pytest.mark.parametrize(("strategy", "weights"), STRATEGIES)
def test_rows_are_those_of_the_mixture_and_lie_where_they_lay(strategy, weights, sets, capsys):
    table = mixed_tables(sets, strategy, weights, 3)
    chosen = mixed(strategy, [5, 8, 3], weights, 3)
    names = zip(sets, chosen, strict=True)
    assert table["prompt"][:] == [f"{name}{row}" for name, rows in names for row in rows]
    for row, prompt in enumerate(table["prompt"][:]):
        assert folder_of(table, row).endswith(f"/{prompt[0]}")
    assert f"a: {len(chosen[0])} of 5 rows" in capsys.readouterr().out


def test_names_of_files_lead_into_the_folders_of_all_sets_and_nowhere_else(sets, tmp_path):
    names = ",".join(str(tmp_path / name) for name in "ab")
    for name in "abc":
        (tmp_path / name / "0.png").write_bytes(b"x")
    place = Place.of(names)
    for name in "ab":
        assert place.file("0.png", tmp_path / name) == tmp_path / name / "0.png"
    with pytest.raises(ValueError, match="leads out of the data folder"):
        place.file("../c/0.png", tmp_path / "a")


def test_what_is_in_no_file_has_no_folder_and_columns_of_one_set_are_left_out(sets):
    other = Dataset.from_list([{"prompt": "m", "chosen": "/x.png", "note": 1}])
    table = mixed_tables({"a": sets["a"], "m": other}, "concat", None, 0)
    assert table.column_names == ["prompt", "chosen", FOLDER]
    assert folder_of(table, 5) == ""
    number = Dataset.from_list([{"prompt": 7, "chosen": "/x.png"}])
    with pytest.raises(UserError, match="--dataset_name: prompt of m hold other things than"):
        mixed_tables({"a": sets["a"], "m": number}, "concat", None, 0)
