"""The short form of ``python -m tests.kill_matrix``."""

from tests.kill_matrix.__main__ import matrix
from tests.kill_matrix.compare import differences


def test_a_run_that_is_killed_again_and_again_ends_as_the_unbroken_one(tmp_path, capsys):
    assert matrix(tmp_path, short=True), capsys.readouterr().out


def test_every_difference_is_seen():
    one = {"a": "1", "b": "2"}
    assert differences(one, dict(one)) == []
    assert differences(one, {"a": "1", "b": "3", ".draft": "left"}) == [".draft", "b"]
