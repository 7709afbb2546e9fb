"""Two processes of a launcher on one table of tokens."""

import re

import pytest

from tests.conftest import script
from tests.processes import run_two

from . import runs
from .factory import pair_rows, write_jsonl


@pytest.mark.slow
def test_two_processes_of_a_launcher_train_on_the_tokens_that_one_has_stored(lm, tmp_path):
    """And on those that they store together: the same shards, and the same numbers."""
    data = write_jsonl(tmp_path / "rows.jsonl", pair_rows(5000))

    def words(name, tables, **changes):
        changes = {"precompute_dir": tmp_path / tables, "max_train_steps": 3, **changes}
        return runs.flags(lm, data, tmp_path / name, **changes)

    runs.train(*words("one", "a", train_batch_size=2, gradient_accumulation_steps=2))
    told = {}
    for name, tables in (("reading", "a"), ("writing", "b")):
        done = run_two(script("train_text_dpo", *words(name, tables, train_batch_size=2)))
        assert done.returncode == 0, done.stderr
        told[name] = re.findall("^tokens .*(?: read from| computing).*", done.stdout, re.MULTILINE)
    assert [("read from" in line, "computing" in line) for name in told for line in told[name]] == [
        (True, False), (False, True)
    ]  # fmt: skip
    for name in told:
        assert runs.metrics(tmp_path / name) == [
            pytest.approx(line, rel=1e-5, abs=1e-6) for line in runs.metrics(tmp_path / "one")
        ]
    stored = [{p.name: p.read_bytes() for p in (tmp_path / t).rglob("*.arrow")} for t in "ab"]
    assert stored[0] == stored[1]
    assert stored[0]
