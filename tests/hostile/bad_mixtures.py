"""Several data sets of text, and several held-out sets, that cannot be had."""

from __future__ import annotations

from collections.abc import Callable

from tests.hostile.bad_texts import flags
from tests.hostile.case import Bad, Material

LONG = "x" * 500


def two(*words: object, second: str = "chats") -> Callable[[Material], list[str]]:
    """Training on plain pairs and other texts with these flags."""

    def make(material: Material) -> list[str]:
        texts = material.texts
        own = flags(material, material.lm, texts["pairs"], *words)
        where = own.index("--dataset_name") + 2
        return [*own[:where], str(texts.get(second, material.folder / second)), *own[where:]]

    return make


def recipe(content: str) -> Callable[[Material], list[str]]:
    """Training by a file of this content, in which PAIRS is a file of pairs."""

    def make(material: Material) -> list[str]:
        file = material.folder / "recipe.yaml"
        file.write_text(content.replace("PAIRS", str(material.texts["pairs"])))
        return ["--config", str(file), "--model_name_or_path", str(material.lm)]

    return make


def spoilt(content: bytes) -> Callable[[Material], list[str]]:
    """A second data set of this content."""

    def make(material: Material) -> list[str]:
        (material.folder / "spoilt.jsonl").write_bytes(content)
        return two(second="spoilt.jsonl")(material)

    return make


def measured(*words: object) -> Callable[[Material], list[str]]:
    """Measuring on sets of these names, of which DATA is a file of pairs."""

    def make(material: Material) -> list[str]:
        data = str(material.texts["pairs"])
        named = [str(word).replace("DATA", data) for word in words]
        rest = ["--eval_strategy", "steps", "--dataset_test_split", "train"]
        return flags(material, material.lm, data, *rest, "--eval_dataset_name", *named)

    return make


W = "--dataset_weights"
TABLE: dict[str, tuple[Callable[[Material], list[str]], str]] = {
    "a weight too few": (two(W, 1), r"--dataset_weights: 1 weights for 2 data sets"),
    "a weight too many": (two(W, 1, 1, 1), r"--dataset_weights: 3 weights for 2 data sets"),
    "a negative weight": (two(W, 1, -1), r"--dataset_weights must be above 0, got -1"),
    "weights of nothing": (two(W, 0, 0), r"--dataset_weights must be above 0, got 0"),
    "an endless weight": (two(W, "inf", 1), r"--dataset_weights must be a finite number"),
    "a weight that is a word": (two(W, "much", 1), r"--dataset_weights: invalid float value"),
    "weights without effect": (
        two(W, 1, 1, "--mix_strategy", "concat"),
        r"--mix_strategy concat takes all rows; leave the weights out",
    ),
    "a share above all": (
        two(W, 2, 1, "--mix_strategy", "of_set"),
        r"--mix_strategy of_set: a weight is a share of its data set, at most 1, and one is 2",
    ),
    "a weight too small": (
        two(W, 1, 1e-3, "--mix_strategy", "of_set"),
        r"--dataset_weights: no row of data set 2 is left",
    ),
    "draws without end": (
        two(W, 1, 1e-9, "--mix_strategy", "interleave_over"),
        r"--mix_strategy interleave_over: about 12,000,\d{3},\d{3} draws of 24 rows",
    ),
    "a set twice": (two(second="pairs"), r"--dataset_name: .*pairs.jsonl, split train, is named"),
    "a set that is not there": (two(second="none.jsonl"), r"data set .*none.jsonl: no such file"),
    "a set that is no JSON": (spoilt(b"{"), r"data spoilt: data set .*: cannot be read"),
    "a set without rows": (spoilt(b""), r"data spoilt: data set .*spoilt.jsonl"),
    "a set of no preferences": (spoilt(b'{"text": "a"}\n' * 4), r"data spoilt: no preferences in"),
    "votes beside pairs": (
        two(second="labels"),
        r"data labels: rows of format 'labels' are single labelled items; take a loss like kto",
    ),
    "streamed sets in no shards": (
        two("--streaming", W, 1, 1),
        r"data set .*: --streaming reads \.parquet and \.tar files",
    ),
    "streamed rows that come again": (
        two("--streaming", "--mix_strategy", "interleave_over"),
        r"--mix_strategy interleave_over: rows come again and again, which --streaming cannot",
    ),
    "entries that are words": (recipe("datasets: [PAIRS]"), r".*datasets is not a list of entries"),
    "an entry of nothing": (recipe("datasets: [{}]"), r"--datasets: an entry has no path"),
    "an entry's word unknown": (
        recipe(f"datasets: [{{path: PAIRS, {LONG}: 1}}]"),
        r"--datasets: x{60,79}… is unknown; known: path, name, split",
    ),
    "an entry nested": (recipe("datasets: [{path: {a: b}}]"), r"--datasets: path .* is no name"),
    "an entry's null byte": (
        recipe('datasets: [{path: "a\\0"}]'),
        r"--datasets: path .* cannot be",
    ),
    "an entry's share": (
        recipe("datasets: [{path: PAIRS, fraction: .nan}]"),
        r"--datasets: fraction nan is no number above 0",
    ),
    "shares of some": (
        recipe("datasets: [{path: PAIRS, fraction: 1}, {path: b}]"),
        r"--datasets: fraction stands in 1 of 2 entries; give all",
    ),
    "a mixer of shares that are words": (
        recipe("dataset_mixer: {PAIRS: many}"),
        r"--datasets: weight 'many' is no number above 0",
    ),
    "held-out sets of one name": (
        measured("x=DATA", "x=other"),
        r"--eval_dataset_name: 2 data sets are called x; write NAME=DATA for each",
    ),
    "a held-out set trained on": (
        measured("mine=DATA"),
        r"--eval_strategy: all rows of .*pairs.jsonl are trained on; name others",
    ),
    "a figure of no set": (
        measured("mine=DATA", "--metric_for_best_model", "yours/loss"),
        r"--metric_for_best_model 'yours/loss' is unknown; known: loss, .*mine/loss",
    ),
}
CASES = [Bad(name, "train_text_dpo", make, line) for name, (make, line) in TABLE.items()]
