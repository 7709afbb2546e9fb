"""Pairs on which nobody can choose, votes that are none, and pages that cannot be served."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

from tests.hostile.case import Bad, Material

Make = Callable[[Material], list[str]]
OUT = ["--output_dir", "out"]


def words(*given: str) -> Make:
    """These words, after good pairs."""
    return lambda material: [str(material.pairs), *OUT, *given]


def votes(content: str | bytes, *given: str, beside: str | None = None) -> Make:
    """A folder with this file of votes, and perhaps one that says on which pairs."""

    def make(material: Material) -> list[str]:
        folder = material.folder / "out"
        folder.mkdir()
        data = content if isinstance(content, bytes) else content.encode()
        (folder / "votes.jsonl").write_bytes(data)
        if beside is not None:
            (folder / "pairs.json").write_text(beside)
        return words(*given)(material)

    return make


def samples(folder: Path, *lines: dict[str, object] | str) -> str:
    """A folder of pictures of runs with these lines in its list."""
    folder.mkdir()
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    (folder / "samples.jsonl").write_text("\n".join(texts) + "\n")
    return str(folder)


def runs(*lists: list[dict[str, object] | str]) -> Make:
    """Folders of runs with these lists of pictures."""
    return lambda material: [
        *(samples(material.folder / f"run{n}", *lines) for n, lines in enumerate(lists)),
        *OUT,
    ]


def picture(policy: str, seed: int = 1) -> dict[str, object]:
    return {"policy": policy, "prompt": "p", "prompt_index": 0, "seed": seed, "file": "a.png"}


def texts(*rows: dict[str, object]) -> Make:
    """A file of texts."""

    def make(material: Material) -> list[str]:
        file = material.folder / "texts.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)) + "\n")
        return [str(file), *OUT]

    return make


def text_runs(material: Material) -> list[str]:
    """Two runs of language models."""
    names = [material.folder / name for name in ("a", "b")]
    for name in names:
        name.mkdir()
        (name / "config.yaml").write_text("model_name_or_path: some/model\n")
    return [*map(str, names), *OUT]


def busy_port(material: Material) -> list[str]:
    """A port on which another program listens until the test's process ends."""
    found = socket.socket()
    found.bind(("127.0.0.1", 0))
    found.listen()
    HELD.append(found)
    return words("--port", str(found.getsockname()[1]))(material)


def full_folder(material: Material) -> list[str]:
    """A folder for the result that holds something else."""
    folder = material.folder / "out" / "pairs"
    folder.mkdir(parents=True)
    (folder / "thesis.tex").touch()
    return words()(material)


HELD: list[socket.socket] = []
LABELLED = {"prompt": "p", "completion": "c", "label": True}

CASES = [
    Bad("no pairs", "annotate", lambda m: OUT, "annotate: pairs are needed: diffdpo"),
    Bad("no folder", "annotate", lambda m: [str(m.pairs)], "--output_dir is needed"),
    Bad("pairs that are not there", "annotate", lambda m: ["/no/pairs", *OUT],
        "data set /no/pairs: no such file or folder"),
    Bad("runs that are not there", "annotate", lambda m: ["/no/a", "/no/b", *OUT],
        "/no/[ab]: no such folder"),
    Bad("a run named twice", "annotate", lambda m: [str(m.pairs), str(m.pairs), *OUT],
        "annotate: one of the runs is named twice"),
    Bad("a folder beside one with pictures", "annotate",
        lambda m: [samples(m.folder / "a", picture("x")), str(m.pairs), *OUT],
        ".*holds no samples.jsonl, as the other folders do"),
    Bad("folders that are no runs", "annotate",
        lambda m: [str(m.pairs), str(m.lm), *OUT], "--policy .*has no result"),
    Bad("runs of texts", "annotate", text_runs, ".*/a: is a run of texts, which is not sampled"),
    Bad("one run alone", "annotate", runs([picture("a")]), "a: nothing to choose; one run alone"),
    Bad("runs at other seeds", "annotate", runs([picture("a")], [picture("b", 2)]),
        "a, b: nothing to choose; they share no prompt with a seed"),
    Bad("a line that is no picture", "annotate", runs(["{"]), ".*samples.jsonl: line 1 names no"),
    Bad("labelled texts", "annotate", texts(LABELLED), "data: 1 of 1 rows of labels cannot"),
    Bad("columns without pairs", "annotate", texts({"a": "b"}), "no preferences in columns a;"),
    Bad("an order by scores that are not there", "annotate", words("--order", "disagreement"),
        "--order disagreement: the pairs have columns NAME_0 and NAME_1 of 0 scores"),
    Bad("an order of no runs", "annotate", words("--order", "gain"), "--order gain: is for the"),
    Bad("an order that is none", "annotate", words("--order", "best"), "--order 'best' is unknown"),
    Bad("a token with spaces", "annotate", words("--token", "a b"), "--token 'a b': letters"),
    Bad("a port beyond all", "annotate", words("--port", "70000"), "--port must be at most 65535"),
    Bad("a port in use", "annotate", busy_port, "--host 127.0.0.1 --port .*cannot be served on"),
    Bad("a host that is none", "annotate", words("--host", "no.such.host.invalid"),
        "--host no.such.host.invalid --port 8765: cannot be served on"),
    Bad("a split that is not there", "annotate", words("--split", "nope"), ".*nope"),
    Bad("votes that are none", "annotate",
        votes("junk\n" * 3, beside='{"pairs": 15, "seed": 0, "fingerprint": ""}'),
        "--output_dir out: its votes are on other pairs"),
    Bad("votes on unknown pairs", "annotate", votes("junk\n"),
        "out: holds votes.jsonl and no pairs.json"),
    Bad("a record that is none", "annotate", votes("", beside="[1"), "out/pairs.json: cannot be"),
    Bad("another seed", "annotate", votes("", beside='{"seed": 3}'),
        "--seed 0: the votes in out were begun with 3"),
    Bad("an export without votes", "annotate", words("--export", "e"),
        "--output_dir out: holds no votes.jsonl; nothing to export"),
    Bad("a result among other files", "annotate", full_folder,
        "--export out/pairs: holds thesis.tex; choose another folder"),
]  # fmt: skip
