"""The command as it is typed: one address, locks, kills, signals, and what is refused."""

import json
import re
import signal
import time
import urllib.request

import pytest
from datasets import Dataset

import diffdpo.commands.annotate as command
from diffdpo.annotate.votes import VoteFile
from diffdpo.cli import main
from tests.annotate.made import data_set, rows, vote
from tests.conftest import script
from tests.processes import Started

ADDRESS = re.compile(r"https?://\S+")


class Served:
    """The command in a process of its own."""

    def __init__(self, *words):
        self.process = Started(script("annotate", *words, "--port", 0))
        while not (found := ADDRESS.search("\n".join(self.lines))):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.1)
        self.url = found[0]

    @property
    def lines(self):
        printed = self.process.files[0]
        return printed.read_text().splitlines() if printed.exists() else []

    def post(self, path, **body):
        headers = {"Content-Type": "application/json", "Origin": self.url.rstrip("/")}
        request = urllib.request.Request(
            f"{self.url}api/{path}", json.dumps(body).encode(), headers
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def choose(self, choice, name="ann"):
        one = self.post("next", annotator=name)["items"][0]
        given = {"pair": one["pair"], "visit": one["visit"], "choice": choice, "ms": 900}
        return self.post("vote", annotator=name, **given)

    def end(self, number):
        self.process.send_signal(number)
        self.process.communicate(60)
        return self.process.returncode, self.lines


@pytest.fixture
def started():
    """``started(*words)``: the command in a process that the test's end takes with it."""
    processes = []

    def start(*words):
        processes.append(Served(*words))
        return processes[-1]

    yield start
    for one in processes:
        one.process.kill()


def refused(capsys, code):
    assert code == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    return line


def test_a_killed_server_has_every_vote_that_it_answered(tmp_path, capsys, started):
    pairs, out = data_set(tmp_path / "pairs", rows(["p"] * 8)), tmp_path / "out"
    first = started(pairs, "--output_dir", out, "--repeat_share", "0")
    for choice in ("left", "right", "tie"):
        first.choose(choice)
    with pytest.raises(urllib.error.HTTPError, match="409"):
        first.post("vote", annotator="ann", pair=99, visit=0, choice="left", ms=1)
    capsys.readouterr()
    line = refused(capsys, main(["annotate", str(pairs), "--output_dir", str(out)]))
    assert f"process {first.process.pid} on" in line
    assert "serves its page in it" in line
    code, lines = first.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert sum(len(ADDRESS.findall(line)) for line in lines) == 1
    before = (out / "votes.jsonl").read_text()
    assert [json.loads(line)["choice"] for line in before.splitlines()][2] == "tie"
    assert len(before.splitlines()) == 3
    with (out / "votes.jsonl").open("a") as file:
        file.write('{"pair": 3, "prom')  # as a power cut may leave it
    again = started(pairs, "--output_dir", out, "--repeat_share", "0")
    assert any("a last line of 17 bytes was cut short" in line for line in again.lines)
    assert again.choose("left")["progress"]["seen"] == 4
    code, lines = again.end(signal.SIGTERM)
    assert code == 0
    assert (out / "votes.jsonl").read_text().startswith(before)
    assert len(VoteFile(out).read()) == 4
    assert any(line.startswith("pairs        4,") for line in lines)
    assert (out / "pairs" / "train-00000.parquet").is_file()
    assert not (out / ".run.lock").exists()


@pytest.fixture
def quick(monkeypatch):
    """``quick(*words)`` runs the command with a server that ends at once; returns the exit code."""
    monkeypatch.setattr(command, "serve", lambda app, found: found.close())
    return lambda *words: main(["annotate", *map(str, words), "--port", "0"])


@pytest.fixture
def voted(tmp_path, quick):
    """Pairs, and a folder with three votes on them."""
    pairs, out = data_set(tmp_path / "pairs", rows(["p"] * 8)), tmp_path / "out"
    assert quick(pairs, "--output_dir", out) == 0
    file = VoteFile(out)
    file.open()
    for pair in range(3):
        file.append(vote(pair, prompt="p"))
    file.close()
    return pairs, out


def test_an_export_needs_no_page_and_may_be_made_beside_one(voted, tmp_path, monkeypatch, capsys):
    pairs, out = voted
    served = []
    monkeypatch.setattr(command, "serve", lambda app, found: served.append(app))
    holder = json.dumps({"host": "node7", "process": 12, "started": ""})
    (out / ".run.lock").write_text(holder)
    with (out / "votes.jsonl").open("a") as file:
        file.write('{"half')
    words = ["annotate", str(pairs), "--output_dir", str(out), "--export", str(tmp_path / "e")]
    assert main(words) == 0
    assert not served
    assert (tmp_path / "e" / "train-00000.parquet").is_file()
    assert (out / "votes.jsonl").read_text().endswith('{"half')  # a line that is being written
    assert not ADDRESS.search(capsys.readouterr().out)


def test_joined_files_count_each_person_once_and_other_pairs_not_at_all(voted, tmp_path, capsys):
    pairs, out = voted
    ours = (out / "votes.jsonl").read_text()
    foreign = vote(7, prompt="of another data set").line + vote(99, prompt="p").line
    later = vote(0, "second", prompt="p").line
    words = ["annotate", str(pairs), "--output_dir", str(out), "--export", str(tmp_path / "e")]

    def exported(text):
        (out / "votes.jsonl").write_text(text)
        assert main(words) == 0
        made = json.loads((tmp_path / "e" / "annotation.json").read_text())
        table = Dataset.from_parquet(str(tmp_path / "e" / "train-00000.parquet"))
        return made["votes"], table["label_0"][:], capsys.readouterr().out

    assert exported(ours + ours)[:2] == exported(ours)[:2] == (3, [1.0, 1.0, 1.0])
    votes, labels, shown = exported(ours + later)
    assert (votes, labels) == (3, [0.0, 1.0, 1.0])
    assert "1 choice is by somebody who had chosen on the pair before; the later one" in shown
    skipped = [vote(n % 8, "skip", f"cy{n}", prompt="p").line for n in range(40)]
    votes, labels, shown = exported(ours + foreign + "".join(skipped))
    assert (votes, labels) == (3, [1.0, 1.0, 1.0])
    assert "line 4 is no vote on these pairs (pair 7); left out" in shown
    assert "line 5 is no vote on these pairs (pair 99); left out" in shown
    assert "3 votes of 1 person on 3 pairs" in shown


def test_a_folder_with_votes_on_other_pairs_is_refused(voted, tmp_path, quick, capsys):
    pairs, out = voted
    other = data_set(tmp_path / "other", rows(["q"] * 8))
    capsys.readouterr()
    line = refused(capsys, quick(other, "--output_dir", out))
    assert "its votes are on other pairs (image pairs of" in line
    assert str(pairs) in line
    line = refused(capsys, quick(pairs, "--output_dir", out, "--seed", 4))
    assert "--seed 4: the votes in" in line
    (out / "pairs.json").unlink()
    line = refused(capsys, quick(pairs, "--output_dir", out))
    assert "holds votes.jsonl and no pairs.json" in line
    assert not (out / ".run.lock").exists()


def test_another_host_gets_a_token_and_this_machine_none(voted, quick, capsys, monkeypatch):
    pairs, out = voted
    for words, pattern in (
        (["--host", "0.0.0.0"], r"http://127\.0\.0\.1:\d+/\?token=[\w-]{20,}$"),
        (["--host", "0.0.0.0", "--token", "abc"], r"http://127\.0\.0\.1:\d+/\?token=abc$"),
        (["--token", "abc"], r"/\?token=abc$"),
        ([], r"http://127\.0\.0\.1:\d+/$"),
    ):
        assert quick(pairs, "--output_dir", out, *words) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if ADDRESS.search(x)]
        assert re.search(pattern, line), line


def test_pairs_stand_anywhere_among_the_flags(tmp_path, capsys):
    words = ["--seed", "1", "/no/a", "--order", "random", "/no/b", "--output_dir", str(tmp_path)]
    assert main(["annotate", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["error: /no/a: no such folder", "error: /no/b: no such folder"]


def test_the_time_of_a_vote_is_when_its_pair_was_seen(tmp_path):
    from tests.annotate.made import session
    from tests.annotate.web import choose, client

    made = session(tmp_path / "s", [data_set(tmp_path / "pairs", rows(["p"] * 3))])
    choose(client(made), "left", ms=5000)
    (line,) = VoteFile(tmp_path / "s").read()
    began = time.time() - 5
    seen = time.mktime(time.strptime(line.started[:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
    assert abs(seen - began) < 5
    assert line.started.endswith("+00:00")
