"""The script as it is typed: what it prints, what it writes, and what it says to mistakes."""

import csv
import dataclasses
import json
import sys

import numpy as np
import pytest

from diffdpo.cli import run_command
from diffdpo.ranking import fit_bradley_terry
from diffdpo.ranking.columns import ROLES
from diffdpo.ranking.report import footer
from diffdpo.ranking.settings import RankingSettings
from tests.conftest import run, script
from tests.ranking.games import random_games, random_table


def main(flags):
    """The exit code of the command as it is typed."""
    return run_command("fit_bradley_terry", flags)


@pytest.fixture
def games(tmp_path):
    path = tmp_path / "games.csv"
    table = {name: column.tolist() for name, column in random_table(6, 400).items()}
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(
            [f"item {w}", f"item {x}", tie, f"item {first}"]
            for w, x, tie, first in zip(*table.values(), strict=True)
        )
    return path


def test_table_json_and_plot_from_the_script(games, tmp_path):
    out, plot = tmp_path / "ranking.json", tmp_path / "ranking.png"
    words = ["--comparisons", games, "--output", out, "--plot", plot, "--home"]
    words += ["--ties", "davidson", "--interval", "sandwich"]
    done = run(script("fit_bradley_terry", *words))
    assert done.returncode == 0, done.stderr
    ranking = fit_bradley_terry(games, ties="davidson", home=True, interval="sandwich")
    document = json.loads(out.read_text())
    names = {"item", "strength", "stderr", "interval", "rank", "rank_interval", "wins", "games"}
    assert set(document["items"][0]) == names
    strengths = [item["strength"] for item in document["items"]]
    assert strengths == sorted(strengths, reverse=True)
    for item in document["items"]:
        k = ranking.index(item["item"])
        assert item["strength"] == pytest.approx(ranking.strength[k], abs=1e-9)
        assert item["interval"] == pytest.approx(ranking.interval[k].tolist(), abs=1e-9)
        assert item["rank_interval"] == ranking.rank_interval[k].tolist()
        assert item["rank"] == ranking.rank[k]
        assert f"{item['strength']:+.3f}" in done.stdout
    assert document["tie_parameter"] == pytest.approx(ranking.tie_parameter)
    assert document["log_likelihood"] == pytest.approx(ranking.log_likelihood)
    assert document["home"]["value"] == pytest.approx(ranking.home.value)
    assert document["connected"] is True
    assert document["method"]["interval"] == "sandwich"
    assert plot.read_bytes().startswith(b"\x89PNG")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"games.csv", "ranking.json", "ranking.png"}
    lines = done.stdout.splitlines()
    assert lines[0].split()[:3] == ["rank", "item", "strength"]
    assert lines[1].split()[0] == "1"


@pytest.mark.parametrize("interval", ["fisher", "bootstrap"])
def test_output_is_strict_json_whatever_the_data(games, tmp_path, interval, capsys):
    out = tmp_path / "ranking.json"
    flags = ["--comparisons", str(games), "--output", str(out), "--prior_std", "1"]
    assert main([*flags, "--interval", interval, "--bootstrap_samples", "5"]) == 0
    json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert "6 items, 400 comparisons" in capsys.readouterr().out


def test_columns_by_other_names(tmp_path, capsys):
    path = tmp_path / "games.csv"
    path.write_text("chosen,rejected\n" + "".join(f"{w},{x}\n" for w, x in random_games(3, 40)))
    assert (
        main(
            ["--comparisons", str(path), "--winner_column", "chosen", "--loser_column", "rejected"]
        )
        == 0
    )


def test_every_setting_reaches_the_fit(monkeypatch):
    passed = {}

    def fit(comparisons, **settings):
        passed.update(settings, comparisons=comparisons)
        return fit_bradley_terry(random_games(3, 40))

    monkeypatch.setattr("diffdpo.commands.fit_bradley_terry.fit_bradley_terry", fit)
    columns = {role: f"the {role}" for role in ROLES}
    flags = [f"--{role}_column={name}" for role, name in columns.items()]
    flags += ["--comparisons=games.csv", "--ties=rao-kupper", "--home", "--prior_std=2.5"]
    flags += ["--interval=sandwich", "--level=0.8", "--bootstrap_samples=7", "--seed=3"]
    assert main(flags) == 0
    assert passed.pop("progress") is True
    assert passed == {
        "comparisons": "games.csv",
        "columns": columns,
        "ties": "rao-kupper",
        "home": True,
        "prior_std": 2.5,
        "interval": "sandwich",
        "level": 0.8,
        "bootstrap_samples": 7,
        "seed": 3,
    }
    beside = {"output", "plot"} | {f"{role}_column" for role in ROLES}
    assert {field.name for field in dataclasses.fields(RankingSettings)} == (
        passed.keys() - {"columns"} | beside
    )


def test_rows_left_out_are_warned_about_on_stderr(games, capsys):
    with games.open("a") as file:
        file.write("item 1,item 1,0,item 1\n")
    assert main(["--comparisons", str(games)]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: {games}: columns not read: first",  # of use to --home alone
        f"warning: {games}: left out 1 of 401 rows",
        "warning: line 402: an item against itself",
    ]


def test_long_names_are_cut_on_the_terminal_and_whole_in_json(tmp_path, capsys):
    path, long = tmp_path / "games.csv", "x" * 5000
    path.write_text(f"winner,loser,judge\n{long},b,j\nb,{long},j\n")
    assert main(["--comparisons", str(path), "--output", str(tmp_path / "r.json")]) == 0
    shown = capsys.readouterr()
    assert max(map(len, shown.out.splitlines())) < 160
    assert shown.err == f"warning: {path}: columns not read: judge\n"
    names = {item["item"] for item in json.loads((tmp_path / "r.json").read_text())["items"]}
    assert names == {long, "b"}


def test_estimated_standard_errors_are_called_so():
    exact = fit_bradley_terry([("a", "b"), ("b", "a")])
    assert not [line for line in footer(exact) if "estimated" in line]
    sampled = dataclasses.replace(exact, method=exact.method | {"variance_samples": 512})
    assert [line for line in footer(sampled) if "from 512 samples each: off by 3.1 %" in line]


def test_many_items_are_cut_on_the_terminal_and_in_the_plot(tmp_path, capsys):
    path, plot = tmp_path / "games.csv", tmp_path / "plot.svg"
    np.savetxt(
        path, random_games(150, 6000), fmt="%d", delimiter=",", header="winner,loser", comments=""
    )
    assert main(["--comparisons", str(path), "--plot", str(plot), "--prior_std", "2"]) == 0
    assert "… and 100 more" in capsys.readouterr().out
    assert plot.read_text().count("<svg") == 1


MISTAKES = [
    ([], "--comparisons FILE is needed"),
    (["--comparison", "{games}"], "unknown flag --comparison (did you mean --comparisons?)"),
    (["--comparisons", "{games}x"], "no such file"),
    (["--comparisons", "{folder}"], "is a folder"),
    (["--comparisons", "{games}", "--winner_column", "won"], "needs the columns `won` and `loser`"),
    (
        ["--comparisons", "{games}", "--ties", "davidsen"],
        "--ties 'davidsen' is unknown; known: half, davidson",
    ),
    (["--comparisons", "{games}", "--level", "95"], "level: must lie between 0 and 1"),
    (["--comparisons", "{games}", "--level", "high"], "invalid float value: 'high'"),
    (["--comparisons", "{games}", "--prior_std", "-1"], "prior_std: must be a number above 0"),
    (
        ["--comparisons", "{games}", "--home", "--first_column", "shown"],
        "has no column shown; found winner, loser, tie, first",
    ),
    (["--comparisons", "{games}", "--output", "{folder}"], "is a folder, not a file"),
    (["--comparisons", "{games}", "--output", "{folder}/no/x.json"], "there is no folder"),
    (
        ["--comparisons", "{games}", "--plot", "{folder}/x.txt"],
        "the name must end in .png, .pdf, .svg",
    ),
]


@pytest.mark.parametrize(("flags", "said"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(games, tmp_path, capsys, flags, said):
    assert main([flag.format(games=games, folder=tmp_path) for flag in flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert [
        line for line in printed.err.splitlines() if said in line and line.startswith("error: ")
    ]


def test_separable_games_stop_the_script_without_a_traceback(tmp_path):
    path = tmp_path / "games.csv"
    path.write_text("winner,loser\n0,1\n2,3\n1,3\n")
    done = run(
        script("fit_bradley_terry", "--comparisons", path, "--output", tmp_path / "out.json")
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no finite strengths exist: 4 groups of items")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("missing", "flags", "extra"),
    [
        ("matplotlib", ["--plot", "plot.png"], "diffdpo[report]"),
        ("scipy.sparse", [], "diffdpo[ranking]"),
    ],
)
def test_a_missing_extra_is_named(games, monkeypatch, capsys, missing, flags, extra):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("diffdpo.ranking.fit.DENSE_LIMIT", 2)
    assert main(["--comparisons", str(games), *flags]) == 2
    assert extra in capsys.readouterr().err


def test_without_scipy_the_usual_number_of_items_is_fitted(games, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    assert main(["--comparisons", str(games)]) == 0
