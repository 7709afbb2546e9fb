"""Streamed texts are the items of the same rows loaded whole; only their order is another."""

import pickle
import shutil

import pytest
from datasets import Dataset

from diffdpo.data.streams.table import StreamTable
from diffdpo.engine.batches import Stream, positions, step_batches
from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.reading.streamed import StreamedTexts
from diffdpo.text.tokens.row_reader import RowSettings
from tests.data.shards import parquet_shards, tar_shards
from tests.text.factory import CHATML, chat_rows, label_rows, pair_rows, tokenizer
from tests.text.runs import flags, metrics, train

WORDS, PLAIN = tokenizer(CHATML), RowSettings()


def streamed(folder, rows, settings=PLAIN, kind="parquet", buffer=8):
    shutil.rmtree(folder / "data", ignore_errors=True)
    if kind == "parquet":
        parquet_shards(folder / "data", rows)
    else:
        tar_shards(folder / "data", [{"json": row} for row in rows])
    where, cache = str(folder / "data"), str(folder / "cache")
    stream = StreamTable.open(where, "train", None, "--dataset_train_split", cache, buffer, True)
    return StreamedTexts(stream, WORDS, settings)


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
    monkeypatch.setattr("diffdpo.text.reading.streamed.LOOKED_AT", 5)
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


def test_processes_and_workers_change_nothing(tmp_path):
    texts = pickle.loads(pickle.dumps(streamed(tmp_path, pair_rows(20))))

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
