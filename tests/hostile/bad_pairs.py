"""Pairs to be made of prompts, candidates and rewards that do not do."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.hostile.case import Bad, Material

PAIRS = "make_pairs"
Make = Callable[[Material], list[str]]


def new_pairs(*words: str) -> Make:
    """Pairs to be sampled from a good model."""

    def make(material: Material) -> list[str]:
        base = ["--pretrained_model_name_or_path", material.models(), "--num_inference_steps", "1"]
        base += ["--output_dir", material.folder / "new", "--precompute_dir", material.folder]
        base += [] if "--prompts" in words else ["--dataset_name", material.pairs]
        return [*map(str, base), *words]

    return make


def new_pairs_over(name: str, text: str) -> Make:
    """Pairs to be sampled into a folder that has this file."""

    def make(material: Material) -> list[str]:
        (material.folder / "new").mkdir()
        (material.folder / "new" / name).write_text(text)
        return new_pairs()(material)

    return make


RECORD = "make_pairs.json"
OTHERS = json.dumps({"made_by": {"seed": 5}, "files": ["train-00000.parquet"]})


def new_pairs_with(code: str) -> Make:
    """Pairs to be labelled by this function ``judge``."""

    def make(material: Material) -> list[str]:
        (material.folder / "own.py").write_text(code)
        return new_pairs("--reward", f"{material.folder / 'own.py'}:judge")(material)

    return make


CASES = [
    Bad("no step", PAIRS, new_pairs("--num_inference_steps", "0"), "--num_inference_steps"),
    Bad("too many steps", PAIRS, new_pairs("--num_inference_steps", "2000"), ".*at most 1000"),
    Bad(
        "a file of the user's",
        PAIRS,
        new_pairs_over("train-00000.parquet", "mine"),
        ".*holds train-00000.parquet",
    ),
    Bad("one candidate", PAIRS, new_pairs("--candidates", "1"), "--candidates must be at le"),
    Bad(
        "no such selection",
        PAIRS,
        new_pairs("--select", "best"),
        "--select 'best' is unknown; known: best_worst, all, random, pareto",
    ),
    Bad("a gap below nothing", PAIRS, new_pairs("--min_gap", "-1"), "--min_gap must be at"),
    Bad("labels of no temperature", PAIRS, new_pairs("--soft_labels", "0"), "--soft_labels"),
    Bad(
        "a gap that no pair has",
        PAIRS,
        new_pairs("--min_gap", "1e9"),
        r"--min_gap 1e\+09: none of \d+ pairs lies so far apart; take a smaller one",
    ),
    Bad(
        "prompts that are not there",
        PAIRS,
        new_pairs("--prompts", "/no/prompts.txt"),
        "--prompts: data set /no/prompts.txt: no such file or folder",
    ),
    Bad(
        "prompts beside pairs",
        PAIRS,
        new_pairs("--prompts", "README.md", "--dataset_name", "mine"),
        "--prompts README.md: mine is then not read; keep one",
    ),
    Bad(
        "no prompt in a file",
        PAIRS,
        new_pairs("--prompts", "/dev/null"),
        "prompts /dev/null: none is there|data set /dev/null",
    ),
    Bad(
        "a policy that is not there",
        PAIRS,
        new_pairs("--policy", "runs/nothing"),
        "--policy runs/nothing: no such folder; did its run finish",
    ),
    Bad(
        "a start without its policy",
        PAIRS,
        new_pairs("--reference", "base"),
        "--reference goes with --policy",
    ),
    Bad(
        "pairs with another record",
        PAIRS,
        new_pairs_over(RECORD, OTHERS),
        "--output_dir .*: holds pairs that were made with another .*; choose another folder",
    ),
    Bad(
        "a record that is none",
        PAIRS,
        new_pairs_over(RECORD, "[]"),
        ".*make_pairs.json: cannot be read .*; move it away",
    ),
    Bad(
        "a reward that fails on a candidate",
        PAIRS,
        new_pairs_with("def judge(pictures, prompts): return [{}[p] for p in prompts]"),
        "--reward .*: fails with KeyError: .* for candidate 1 of prompt",
    ),
]
