"""Tables on disk: whole shards, found again by their facts, gone on with after a kill."""

import json
import os
import subprocess
import sys

import pytest
import torch
from accelerate import Accelerator
from datasets import Features, Value

from diffdpo.cache.keys import Key, files_digest, network_digest
from diffdpo.cache.seal import MARK
from diffdpo.cache.tables import is_complete, shards, table
from diffdpo.engine import digests
from diffdpo.engine.files import HOST
from diffdpo.errors import UserError

FEATURES = Features({"square": Value("int64")})
KEY = Key("squares", {"data": "a", "resolution": "64"})


class Squares:
    """Computes rows, notes which, and dies at one of them."""

    def __init__(self, dies_at=None):
        self.computed, self.dies_at = [], dies_at

    def __call__(self, span):
        for number in span:
            if number == self.dies_at:
                raise KeyboardInterrupt
            self.computed.append(number)
            yield {"square": number**2}


def squares(folder, key=KEY, rows=100, compute=None):
    return table(str(folder), key, FEATURES, rows, compute or Squares(), Accelerator(cpu=True))[
        "square"
    ][:]


def test_rows_come_back_in_their_order_and_are_computed_once(tmp_path, capsys):
    first, second = Squares(), Squares()
    assert squares(tmp_path, compute=first) == [number**2 for number in range(100)]
    assert squares(tmp_path, compute=second) == [number**2 for number in range(100)]
    assert (len(first.computed), second.computed) == (100, [])
    output = capsys.readouterr().out
    assert "squares      computing 100 of 100 rows: none are stored yet" in output
    assert "squares      100 rows read from" in output


def test_a_killed_run_goes_on_where_it_stood(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        squares(tmp_path, compute=Squares(dies_at=40))
    assert not list(tmp_path.glob("*/.*"))  # no half shard
    rest = Squares()
    assert squares(tmp_path, compute=rest) == [number**2 for number in range(100)]
    assert rest.computed == list(range(32, 100))
    assert "computing 68 of 100 rows: the others are stored already" in capsys.readouterr().out


def test_a_damaged_shard_is_computed_again(tmp_path):
    squares(tmp_path)
    damaged = sorted(tmp_path.glob("*/*.arrow"))[1]
    damaged.write_bytes(damaged.read_bytes()[:50])
    again = Squares()
    assert squares(tmp_path, compute=again)[20] == 400
    assert again.computed == list(range(16, 32))


def flipped(path, place, bit=2):
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= bit
    path.write_bytes(content)


@pytest.mark.parametrize("place", [0, 0.003, 0.1, 0.5, 0.7, 0.95, 1])
def test_a_flipped_bit_is_seen_before_arrow_reads_it(tmp_path, capsys, place):
    squares(tmp_path)
    shard = sorted(tmp_path.glob("*/*.arrow"))[1]
    whole = shard.read_bytes()
    flipped(shard, place)
    capsys.readouterr()
    again = Squares()
    assert squares(tmp_path, compute=again) == [number**2 for number in range(100)]
    assert again.computed == list(range(16, 32))
    assert f"{shard.name}: damaged; its rows are computed anew" in capsys.readouterr().out
    assert shard.read_bytes() == whole


def test_shards_of_a_version_without_digests_are_read_and_named(tmp_path, capsys):
    squares(tmp_path)
    for shard in tmp_path.glob("*/*.arrow"):
        content = shard.read_bytes()
        shard.write_bytes(content[: content.index(MARK)])
    again = Squares()
    assert squares(tmp_path, compute=again) == [number**2 for number in range(100)]
    assert not again.computed
    assert "7 shards of an earlier version have no digest" in capsys.readouterr().out


def test_a_table_that_is_asked_for_again_is_not_read_again(tmp_path, monkeypatch):
    """A start asks twice: whether encoders are needed, and for the rows."""
    squares(tmp_path)
    for shard in tmp_path.glob("*/*.arrow"):
        os.utime(shard, (0, 0))
    read, count = digests.read_digest, []
    monkeypatch.setattr(digests, "read_digest", lambda *a: count.append(a) or read(*a))
    for _ in range(2):
        assert is_complete(str(tmp_path), KEY, 100, Accelerator(cpu=True))
    assert len(count) == 7


def test_a_changed_fact_is_computed_anew_and_named(tmp_path, capsys):
    squares(tmp_path)
    squares(tmp_path, Key("squares", {"data": "a", "resolution": "32"}))
    assert "computing 100 of 100 rows: those stored differ in resolution" in capsys.readouterr().out
    squares(tmp_path, Key("cubes", {"data": "a", "resolution": "64"}))
    assert "none are stored yet" in capsys.readouterr().out
    (path,) = tmp_path.glob(f"{KEY.folder}/key.json")
    assert json.loads(path.read_text()) == KEY.facts


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--precompute_dir .*cannot be written"):
        squares(tmp_path / "file")


def test_a_path_that_is_no_text_is_one_line_before_anything_is_computed(tmp_path):
    compute = Squares()
    with pytest.raises(UserError, match=r"--precompute_dir .*bytes that are not text"):
        squares(os.fsdecode(bytes(tmp_path) + b"/a\xff"), compute=compute)
    assert not compute.computed


@pytest.mark.parametrize("rows", [1, 16, 17, 300, 851_293])
def test_shards_cover_every_row_once_and_depend_on_their_number_alone(rows):
    spans = shards(rows)
    assert [number for span in spans for number in (span.start, span.stop)][1:-1:2] == [
        span.start for span in spans[1:]
    ]
    assert (spans[0].start, spans[-1].stop) == (0, rows)
    assert max(map(len, spans)) <= 512


def test_digests_follow_contents(tmp_path):
    network = torch.nn.Linear(3, 2)
    before = network_digest(network)
    assert before == network_digest(network)
    assert network_digest(network.bfloat16()) != before
    with torch.no_grad():
        network.float().weight[0, 0] += 1e-6
    assert network_digest(network) != before
    (tmp_path / "config.json").write_text("{}")
    empty = files_digest(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert files_digest(tmp_path) != empty


def test_adapters_leave_the_name_of_the_weights_below_them_alone():
    from peft import LoraConfig, inject_adapter_in_model

    network = torch.nn.Sequential(torch.nn.Linear(3, 2))
    before = network_digest(network)
    network.requires_grad_(False)
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["0"]), network)
    assert network_digest(network) == before


def test_a_table_with_a_gap_is_an_error_and_not_other_rows(tmp_path):
    """As on a machine that does not see what another one wrote."""

    class Forgetful(Squares):
        def __call__(self, span):
            yield from super().__call__(span)
            if span.start == 32:
                for path in tmp_path.glob("*/000000016-*.arrow"):
                    path.unlink()

    with pytest.raises(UserError, match="rows 16 to 31 cannot be read here"):
        squares(tmp_path, compute=Forgetful())


def test_drafts_of_killed_processes_go_and_those_of_living_ones_stay(tmp_path):
    folder = tmp_path / KEY.folder
    folder.mkdir()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    left = folder / f".000000000-000000016.arrow.{HOST}-{dead.stdout.strip()}.tmp"
    kept = folder / f".000000000-000000016.arrow.{HOST}-{os.getppid()}.tmp"
    elsewhere = folder / f".000000000-000000016.arrow.other-{dead.stdout.strip()}.tmp"
    for path in (left, kept, elsewhere):
        path.write_text("half")
    squares(tmp_path)
    assert [path.exists() for path in (left, kept, elsewhere)] == [False, True, True]
