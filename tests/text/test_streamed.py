"""Streamed texts are the items of the same rows loaded whole; only their order is another."""

import pickle
import shutil

import numpy as np
import pytest
from datasets import Dataset

from diffdpo.data.streams.table import StreamTable
from diffdpo.engine.batches import Stream, positions, step_batches
from diffdpo.errors import UserError
from diffdpo.text.reading.mixed import MixedTexts
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.reading.streamed import StreamedTexts
from diffdpo.text.reading.streamed_mixture import StreamedMixture
from diffdpo.text.tokens.row_reader import RowSettings
from tests.data.shards import parquet_shards, tar_shards
from tests.text.factory import CHATML, chat_rows, label_rows, pair_rows, tokenizer
from tests.text.runs import flags, metrics, train

WORDS, PLAIN = tokenizer(CHATML), RowSettings()


def streamed(folder, rows, settings=PLAIN, kind="parquet", buffer=8, name="data"):
    shutil.rmtree(folder / name, ignore_errors=True)
    if kind == "parquet":
        parquet_shards(folder / name, rows)
    else:
        tar_shards(folder / name, [{"json": row} for row in rows])
    where, cache = str(folder / name), str(folder / "cache")
    stream = StreamTable.open(where, "train", None, "--dataset_train_split", cache, buffer, True)
    return StreamedTexts(stream, WORDS, settings)


def split(rows):
    return rows[:13], rows[13:]


@pytest.mark.parametrize("kind", ["parquet", "tar"])
@pytest.mark.parametrize(
    ("rows", "paired"),
    [(pair_rows(20), True), (pair_rows(20), False), (chat_rows(20), True), (label_rows(20), False)],
    ids=["pairs", "pairs taken apart", "chats", "labels"],
)
def test_every_item_is_that_of_the_rows_loaded_whole(kind, rows, paired, tmp_path):
    settings = RowSettings(max_length=80, paired=paired)
    texts = streamed(tmp_path, rows, settings, kind)
    whole = TextRows(Dataset.from_list(rows), WORDS, settings)
    assert len(texts) == len(whole)
    for number in reversed(range(len(whole))):
        assert texts.read(number, 0) == whole.read(number, 0)
        assert texts.source(number) == whole.source(number)
    assert sorted(texts.order(0, 1).tolist()) == list(range(len(whole)))
    assert texts.tally == whole.tally  # all of so few rows are looked at
    assert paired or texts.desirable == whole.desirable
    assert texts.preview(2) == whole.preview(2)
    for each in (texts, whole):
        each.limit(7, 3)
    assert list(texts.items) == list(whole.items)


def test_a_row_that_cannot_be_used_is_named_and_the_next_one_stands_in(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("diffdpo.text.reading.streamed.StreamedTexts.looked_at", 5)
    rows = pair_rows(30)
    rows[20]["rejected"] = rows[20]["chosen"]
    rows[22]["prompt"] = "long " * 100
    texts = streamed(tmp_path, rows, RowSettings(max_length=64))
    assert [texts.read(number, 0).row for number in (19, 20, 21, 22)] == [19, 21, 21, 23]
    said = capsys.readouterr().err
    assert "row 20 (train-00001-of-00002.parquet, row 5): chosen and rejected are the same" in said
    assert "row 22 (train-00001-of-00002.parquet, row 7): its prompt alone fills" in said
    for row in rows[6:]:
        row["rejected"] = row["chosen"]
    with pytest.raises(UserError, match="6 of 6 rows cannot be used; the last is row 11 "):
        streamed(tmp_path, rows, RowSettings(max_length=64)).read(6, 0)


def test_mistakes_that_the_first_rows_share_are_found_before_training(tmp_path):
    with pytest.raises(UserError, match="single labelled items; take a loss like kto"):
        streamed(tmp_path, label_rows(12))
    bad = [{**row, "rejected": row["chosen"]} for row in pair_rows(12)]
    with pytest.raises(UserError, match="12 of 12 rows cannot be used"):
        streamed(tmp_path, bad)


def test_what_tells_one_set_from_another(tmp_path):
    rows = pair_rows(20)
    names = {streamed(tmp_path, rows).fingerprint for _ in range(2)}
    assert len(names) == 1
    names.add(streamed(tmp_path, [*rows[:12], {**rows[12], "chosen": "x"}]).fingerprint)
    names.add(streamed(tmp_path, rows, RowSettings(max_length=12)).fingerprint)
    limited = streamed(tmp_path, rows)
    limited.limit(5, 0)
    assert len(names | {limited.fingerprint}) == 4


@pytest.mark.parametrize("sets", [1, 2])
def test_processes_and_workers_change_nothing(sets, tmp_path):
    parts = [
        streamed(tmp_path, rows, name=f"{number}")
        for number, rows in enumerate([pair_rows(20)] if sets == 1 else split(pair_rows(20)))
    ]
    both = StreamedMixture(parts, ["a", "b"], "concat", None, 0) if sets == 2 else parts[0]
    texts = pickle.loads(pickle.dumps(both))

    def seen(world, workers, start=0):
        found = {}
        for rank in range(world):
            plan = positions(start, 10, 4 // world, 1, rank, world)
            steps = step_batches(Stream(texts, 7), plan, list, 1, workers)
            for step, (batch,) in enumerate(steps, start):
                found.setdefault(step, []).extend((i.row, list(i.prompt)) for i in batch)
        return [sorted(found[step]) for step in sorted(found)]

    straight = seen(1, 0)
    assert straight == seen(2, 0) == seen(1, 2)
    assert straight[6:] == seen(1, 0, start=6)
    assert sorted(row for step in straight[:5] for row, _ in step) == list(range(20))


SETS = {"pairs": pair_rows(24), "chats": chat_rows(30)[24:], "tags": pair_rows(50)[38:]}
MIXED = [("concat", None), ("of_mixture", [0.5, 0.2, 0.3]), ("of_set", [0.5, 1, 0.25])]
MIXED += [("interleave_under", [0.6, 0.1, 0.3]), ("interleave_under", None)]


def mixture(folder, strategy, weights, settings=PLAIN):
    """The sets from shards of both kinds, and the same loaded whole."""
    kinds = zip(SETS.items(), ("parquet", "tar", "parquet"), strict=True)
    parts = [streamed(folder, rows, settings, kind, name=name) for (name, rows), kind in kinds]
    whole = [TextRows(Dataset.from_list(rows), WORDS, settings) for rows in SETS.values()]
    names = (list(SETS), strategy, weights, 3)
    return StreamedMixture(parts, *names), MixedTexts(whole, *names)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("strategy", "weights"), MIXED)
def test_a_streamed_mixture_has_the_items_of_the_sets_loaded_whole(
    strategy, weights, paired, tmp_path
):
    texts, whole = mixture(tmp_path, strategy, weights, RowSettings(paired=paired))
    assert list(texts.items) == list(whole.items)
    assert [texts.source(n) for n in range(len(texts))] == whole.row_I.tolist()
    assert texts.tally == whole.tally
    assert paired or abs(texts.desirable - whole.desirable) <= 1  # by shares
    assert texts.preview(2) == whole.preview(2)
    assert texts.where(int(texts.row_I[-1])).endswith(") of tags")
    for each in (texts, whole):
        each.limit(9, 3)
    assert list(texts.items) == list(whole.items)
    assert sorted(texts.order(0, 1).tolist()) == list(range(9))


def test_every_set_of_a_streamed_mixture_keeps_its_order_and_share(tmp_path):
    texts, _ = mixture(tmp_path, "concat", None)
    order = texts.order(5, 2)
    assert sorted(order.tolist()) == list(range(len(texts)))
    assert order.tolist() != texts.order(5, 3).tolist()
    for number, (span, part) in enumerate(zip(texts.spans, texts.parts, strict=True)):
        within = (order >= span.start) & (order < span.stop)
        own = part.stream.order(texts.own_rows(number), 5, 2)
        assert (order[within] - span.start).tolist() == own.tolist()
        share, seen = len(own) / len(order), np.cumsum(within)
        # (i + u) / n: of each set one at most is ahead or behind.
        assert np.abs(seen - share * np.arange(1, len(order) + 1)).max() <= 1 + len(SETS)
    assert len({mixture(tmp_path, "of_set", [w, 1, 1])[0].fingerprint for w in (1, 0.5)}) == 2


@pytest.mark.slow
def test_a_streamed_mixture_resumes_bit_for_bit(lm, tmp_path, capsys):
    for name in ("pairs", "tags"):
        parquet_shards(tmp_path / name, SETS[name])
    common = {"streaming": True, "buffer_size": 8, "checkpointing_steps": 2}
    common |= {"precompute_dir": tmp_path / "c", "logging_steps": 1, "lr_scheduler": "constant"}
    common |= {"dataset_weights": ["0.6", "0.4"]}
    names = [str(tmp_path / "pairs"), str(tmp_path / "tags")]
    train(*flags(lm, names, tmp_path / "straight", **common))
    assert "pairs: 18 of 24 pairs (pairs, weight 0.6)" in capsys.readouterr().out
    train(*flags(lm, names, tmp_path / "cut", **common | {"max_train_steps": 2}))
    again = common | {"resume_from_checkpoint": "latest", "dataloader_num_workers": 1}
    train(*flags(lm, names, tmp_path / "cut", **again))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")


def test_a_streamed_run_resumes_bit_for_bit(lm, tmp_path, capsys):
    parquet_shards(tmp_path / "data", pair_rows(24))
    common = {"streaming": True, "buffer_size": 8, "checkpointing_steps": 2}
    common |= {"precompute_dir": tmp_path / "c", "logging_steps": 1, "lr_scheduler": "constant"}
    train(*flags(lm, tmp_path / "data", tmp_path / "straight", **common))
    said = capsys.readouterr().out
    assert "24 pairs (pairs), read as they are trained on; of the first 24 rows 0 are" in said
    assert "streaming    24 rows in 2 parquet files" in said
    train(*flags(lm, tmp_path / "data", tmp_path / "cut", **common | {"max_train_steps": 2}))
    again = common | {"resume_from_checkpoint": "latest", "dataloader_num_workers": 1}
    train(*flags(lm, tmp_path / "data", tmp_path / "cut", **again))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")
    assert len(metrics(tmp_path / "cut")) == 4
    assert not list(tmp_path.rglob("trained_on.safetensors"))
