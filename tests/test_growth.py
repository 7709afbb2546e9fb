"""The table of growth: its arithmetic, its rows, and the command in small."""

import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from scripts.growth_table import Cell, growth, page
from tests.conftest import ROOT


def cell(rows, start, memory, version="now", kind="text-186"):
    facts = {"first_start_cpu": start, "again_start_cpu": 1.0, "first_memory": memory}
    return Cell(kind, rows, version, facts | {"first_start_wall": start, "disk": 2.0 * rows})


CELLS = [cell(1000, 2.0, 50.0), cell(10_000, 11.0, 68.0), cell(1000, 3.0, 50.0, "before")]
CELLS.append(Cell("text-186", 10_000, "before", left_out="over 1 minutes a start"))


def test_growth_per_row_is_the_slope_between_the_two_largest_sizes():
    small = cell(100, 0.0, 0.0)
    found = growth([small, *CELLS[:2]])
    assert found.startswith("growth per row, now, 1,000 to 10,000 rows: first start 1,000.0 µs")
    assert "memory 2,097.2 bytes" in found  # 18 MiB over 9,000 rows
    assert found.endswith("disk 2.0 bytes")
    assert growth([small]) == growth([CELLS[2], CELLS[3]]) == ""


def test_the_table_names_what_was_left_out_and_what_failed():
    text = page([*CELLS, Cell("image", 1000, "now", error="no | room")])
    assert "| 10,000 | now | 11.0 | 1.0 | 68 | – | – | – | – | 0 |" in text
    assert "| 10,000 | before | over 1 minutes a start |" in text
    assert "image\n\n| rows |" in text
    assert "| 1,000 | now | failed: no / room |" in text
    for block in text.split("\n\n"):
        assert len({line.count("|") for line in block.splitlines() if line.startswith("|")}) <= 1


def test_a_cell_is_left_out_by_the_sizes_before_it():
    sys.path.insert(0, str(ROOT))
    from scripts.growth import too_long

    wanted = Cell("text-186", 100_000, "now")
    assert too_long(wanted, CELLS, minutes=2) == ""  # 101 s: 11 s, and 90,000 rows of 1 ms
    assert too_long(wanted, CELLS, minutes=1) == "over 1 minutes a start"
    assert too_long(wanted, CELLS[1:], minutes=1) == ""  # one size tells no growth
    assert too_long(Cell("text-186", 100_000, "before"), CELLS, 100) == "over 1 minutes a start"
    assert too_long(Cell("image", 1000, "now"), CELLS, 1) == ""


@pytest.mark.parametrize("kind", ["image", "text-186"])
def test_rows_are_many_different_and_of_the_length_named(kind, tmp_path):
    from scripts.growth_rows import make_rows

    folder = make_rows(kind, 500, tmp_path)
    rows = pq.read_table(folder).to_pylist()
    assert len(rows) == 500
    if kind == "image":
        assert len({(row["jpg_0"], row["jpg_1"]) for row in rows}) > 450
        assert {row["label_0"] + row["label_1"] for row in rows} == {1}
        assert all(row["jpg_0"] != row["jpg_1"] for row in rows)
        assert len({row["caption"] for row in rows}) == 36
    else:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(str(tmp_path / "model"))
        lengths = [sum(len(tokenizer(text).input_ids) for text in row.values()) for row in rows]
        assert sum(lengths) / 500 == pytest.approx(186, abs=12)
        assert len({row["chosen"] for row in rows}) == 500
        assert all(row["chosen"] != row["rejected"] for row in rows)


def test_the_page_shows_the_kept_figures():
    from scripts.growth import BLOCK, PAGE

    kept = json.loads((ROOT / "assets" / "growth.json").read_text())
    (block,) = BLOCK.findall(PAGE.read_text())
    assert block.strip() == page([Cell(**one) for one in kept]).strip()
    assert kept


def growth_command(*words):
    command = [sys.executable, str(ROOT / "scripts" / "growth.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1500)


def test_impossible_settings_are_named(tmp_path):
    found = growth_command("--kinds", "video", "--rows", "10", "--against", tmp_path)
    assert found.returncode == 2
    assert len([line for line in found.stderr.splitlines() if line.startswith("error: ")]) == 3
    for word in ("--kinds video", "--rows", "--against"):
        assert word in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "text-64"])
def test_the_smallest_size_beside_itself(kind, tmp_path):
    words = ["--kinds", kind, "--rows", 64, "--against", ROOT, "--work_dir", tmp_path / "work"]
    found = growth_command(*words)
    assert found.returncode == 0, found.stdout + found.stderr
    cells = json.loads((tmp_path / "work" / "growth.json").read_text())
    assert [one["version"] for one in cells] == ["now", "before"]
    for one in cells:
        facts = one["facts"]
        assert 0 < facts["again_step"] < facts["first_first_step"]
        for name in ("first_start_cpu", "again_start_cpu", "first_memory", "store", "disk"):
            assert facts[name] > 0, name
    assert "| 64 | now |" in (tmp_path / "work" / "growth.md").read_text()
