"""Shards by what a row takes, all of them in one pass, and what is said before it begins."""

import shutil
import threading
from collections import namedtuple

import pytest
from accelerate import Accelerator
from datasets import Features, Value

from diffdpo.batched import batched
from diffdpo.cache import disk, filling
from diffdpo.cache.claims import claim_of
from diffdpo.cache.disk import free_bytes
from diffdpo.cache.filling import OnePass, Taken, duration
from diffdpo.cache.shards import Cost, growing, shard_path, shards
from diffdpo.cache.tables import is_complete, table
from diffdpo.errors import UserError
from tests.cache.test_claims import claim, contents
from tests.cache.test_tables import FEATURES, KEY, Squares, squares

Usage = namedtuple("Usage", "total used free")


def cpu():
    return Accelerator(cpu=True)


class Pass:
    """Squares in one pass, which asks for some rows ahead of those that it hands over."""

    def __init__(self, ahead=0, dies_at=None):
        self.ahead, self.dies_at, self.passes, self.asked = ahead, dies_at, 0, []

    def __call__(self, spans):
        self.passes += 1
        waiting = []
        for span in spans:
            self.asked.append(span.start)
            waiting += span
            while len(waiting) > self.ahead:
                yield self.row(waiting.pop(0))
        yield from map(self.row, waiting)

    def row(self, number):
        if number == self.dies_at:
            raise KeyboardInterrupt
        return number, {"square": number**2}


@pytest.mark.parametrize("ahead", [0, 3, 40, 1000])
def test_one_pass_makes_the_files_that_a_call_for_each_makes(tmp_path, ahead):
    squares(tmp_path / "each")
    compute = Pass(ahead)
    assert squares(tmp_path / "one", compute=OnePass(compute)) == [n**2 for n in range(100)]
    assert contents(tmp_path / "one") == contents(tmp_path / "each")
    assert (compute.passes, compute.asked) == (1, list(range(0, 100, 16)))
    assert not list((tmp_path / "one" / KEY.folder).glob(".*"))


def test_a_range_is_taken_when_it_is_asked_for(tmp_path):
    with Taken(tmp_path, batched(range(48), 16)) as taken:
        spans = iter(taken)
        assert next(spans) == range(0, 16)
        there = [claim_of(shard_path(tmp_path, span)).exists() for span in batched(range(48), 16)]
        assert there == [True, False, False]
    assert not claim_of(shard_path(tmp_path, range(0, 16))).exists()


def test_a_pass_that_dies_keeps_its_whole_shards_and_no_claim(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        squares(tmp_path, compute=OnePass(Pass(ahead=40, dies_at=20)))
    files = sorted(path.name for path in (tmp_path / KEY.folder).iterdir())
    assert files == ["000000000-000000016.arrow", "key.json"]
    rest = Pass()
    assert squares(tmp_path, compute=OnePass(rest)) == [n**2 for n in range(100)]
    assert rest.asked == list(range(16, 100, 16))


def test_a_pass_hands_over_its_own_before_it_waits_for_another_process(tmp_path, monkeypatch):
    """That one may be waiting for what is ready here."""
    monkeypatch.setattr(filling, "POLL", 0.02)
    path = claim(tmp_path, 0)  # the second shard, by a living process
    ready = tmp_path / "ready"
    squares(ready)
    others = [span for span in batched(range(100), 16) if span.start != 16]

    def other():
        while not all(shard_path(path.parent, span).exists() for span in others):
            pass
        (ready / KEY.folder / path.name).rename(path)

    thread = threading.Thread(target=other)
    thread.start()
    compute = Pass(ahead=1000)
    assert squares(tmp_path, compute=OnePass(compute)) == [n**2 for n in range(100)]
    thread.join()
    assert 16 not in compute.asked


@pytest.mark.parametrize(
    ("cost", "rows"),
    [
        (Cost(), 512),
        (Cost(bytes=2**20), 64),  # of 64 MiB
        (Cost(passes=2), 4096),
        (Cost(bytes=12, passes=2), 4096),
        (Cost(bytes=2**18, passes=4), 256),
        (Cost(bytes=2**30, passes=1), 16),
    ],
)
def test_a_shard_is_bounded_by_bytes_and_by_work(cost, rows):
    assert cost.largest() == rows
    assert max(map(len, shards(10_000, rows))) == rows if rows < 640 else True


def test_a_table_of_terabytes_has_no_more_files_than_a_system_maps():
    spans = shards(851_293, Cost(bytes=8 * 2**20).largest())
    assert len(spans) <= 2048
    assert sum(map(len, spans)) == 851_293
    assert Cost(bytes=8 * 2**20).held == 2  # rows in memory, not a shard


@pytest.mark.parametrize("rows", [1, 16, 255, 257, 5000, 4_256_465])
def test_a_table_that_grows_keeps_its_shards(rows):
    spans, more = growing(rows, 4096), growing(rows + 12_345, 4096)
    ends = [span.stop for span in spans]
    assert [span.start for span in spans] == [0, *ends[:-1]]
    assert ends[-1] == rows
    assert more[: len(spans) - 1] == spans[:-1]
    assert max(map(len, spans)) <= 4096


def grown(folder, rows, compute):
    found = table(str(folder), KEY, FEATURES, rows, compute, cpu(), grows=True)
    assert found["square"][:rows] == [n**2 for n in range(rows)]
    return compute


def test_of_a_longer_table_a_shorter_one_is_read_and_a_longer_one_goes_on(tmp_path):
    assert grown(tmp_path, 40, Squares()).computed == list(range(40))
    assert grown(tmp_path, 20, Squares()).computed == []
    assert grown(tmp_path, 35, Squares()).computed == []
    assert grown(tmp_path, 100, Squares()).computed == list(range(32, 100))
    assert grown(tmp_path, 90, Squares()).computed == []


def test_shards_that_another_version_cut_otherwise_are_read(tmp_path):
    table(str(tmp_path), KEY, FEATURES, 100, Squares(), cpu(), ranges=batched(range(100), 40))
    (tmp_path / KEY.folder / "000000040-000000080.arrow").unlink()
    assert not is_complete(str(tmp_path), KEY, 100, cpu())
    again = Squares()
    assert squares(tmp_path, compute=again) == [n**2 for n in range(100)]
    assert again.computed == list(range(40, 80))
    assert is_complete(str(tmp_path), KEY, 100, cpu())


def test_a_table_without_room_is_one_line_before_anything_is_computed(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, 2**30))
    cost, compute = Cost(bytes=2**28, advice="half of it with --no_hflip"), Squares()
    with pytest.raises(UserError, match=r"100 rows of squares need about 25\.0 GiB of disk and 1 "):
        table(str(tmp_path), KEY, FEATURES, 100, compute, cpu(), cost=cost)
    assert not compute.computed
    # What is stored already needs no room.
    table(str(tmp_path), KEY, FEATURES, 100, compute, cpu(), ranges=batched(range(100), 98))
    (tmp_path / KEY.folder / "000000098-000000100.arrow").unlink()
    table(str(tmp_path), KEY, FEATURES, 100, compute, cpu(), cost=cost)
    assert "about 0.5 of 1 GiB free" in capsys.readouterr().out


def test_room_is_that_of_the_folder_that_will_be_made(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        disk.shutil, "disk_usage", lambda path: asked.append(path) or Usage(1, 0, 7)
    )
    assert free_bytes(tmp_path / "a" / "b") == 7
    assert asked == [tmp_path]


def test_it_is_said_once_how_long_the_rest_will_take(tmp_path, monkeypatch, capsys):
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr(filling.time, "monotonic", lambda: next(clock))
    squares(tmp_path)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "to go" in line]
    # Five seconds a row, after the first three of 100.
    assert line == "squares      about 8 minutes to go, at 0.2 rows a second"


@pytest.mark.parametrize(
    ("seconds", "text"), [(20, "1 minutes"), (5400, "90 minutes"), (9000, "2.5 hours")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("left_out", "told"), [(20, "row 20: row 21 came in its place"), (99, "row 99 of 96 to 99")]
)
def test_a_row_that_is_left_out_is_missed_before_others_take_its_place(tmp_path, left_out, told):
    features = Features({"square": Value("int64")})
    asked = []

    def rows(spans):
        for span in spans:
            asked.append(span.start)
            yield from ((n, {"square": n}) for n in span if n != left_out)

    with pytest.raises(RuntimeError, match=told):
        table(str(tmp_path), KEY, features, 100, OnePass(rows), cpu())
    assert asked[-1] == left_out // 16 * 16
    written = [path.name for path in (tmp_path / KEY.folder).glob("*.arrow")]
    assert len(written) == left_out // 16  # the whole ones before it
