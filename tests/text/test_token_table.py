"""Tokens of many rows are computed once, by several processes, and read from a table after that."""

import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from datasets import Dataset

from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.tokens import tokenise
from diffdpo.text.tokens.row_reader import RowReader, RowSettings
from diffdpo.text.tokens.token_key import token_key
from diffdpo.text.tokens.tokenise import Store

from .factory import (
    CHATML,
    LLAMA3,
    assistant,
    chat_rows,
    label_rows,
    pair_rows,
    save_model,
    tokenizer,
    user,
)

ROWS = 100


def many(count=ROWS, make=chat_rows):
    """Rows of which one is bad, one too long, one without its tools in the template."""
    records = [{**row, "note": "n", "tools": "[]"} for row in make(count)]
    records[3]["rejected"] = records[3]["chosen"]
    records[7]["prompt"] = [user("word " * 80)]
    records[12]["tools"] = '[{"type": "function", "function": {"name": "\\ud800"}}]'
    records[50]["chosen"] = [assistant("x " * 60)]
    return Dataset.from_list(records)


@pytest.fixture
def large(monkeypatch):
    """Every set counts as a large one; shards and batches are small."""
    monkeypatch.setattr(RowReader, "kept_in_memory", 0)
    monkeypatch.setattr(tokenise, "BATCH", 8)
    monkeypatch.setattr(tokenise, "SHARD", 16)


@pytest.fixture
def counted(monkeypatch, tmp_path):
    """The rows that were tokenised, in whichever process."""
    file, real = tmp_path / "rows.txt", tokenise.tokens_of

    def noting(reader, dataset, span):
        with file.open("a") as notes:
            notes.write("".join(f"{row}\n" for row in span))
        return real(reader, dataset, span)

    monkeypatch.setattr(tokenise, "tokens_of", noting)
    return lambda: [int(row) for row in file.read_text().split()] if file.exists() else []


def stored(folder, dataset, words=None, processes=1, **settings):
    return TextRows(
        dataset,
        words or tokenizer(CHATML),
        RowSettings(**{"max_length": 100, **settings}),
        processes=processes,
        store=Store(str(folder), Accelerator(cpu=True)),
    )


def row_by_row(dataset, words, limit):
    """Items of conversations by calls of the tokenizer for one text after another."""
    for number, row in enumerate(dataset):
        wholes = [
            words.apply_chat_template(row["prompt"] + row[side], tokenize=False)
            for side in ("chosen", "rejected")
        ]
        head = words.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        prompt = words(head, add_special_tokens=False)["input_ids"]
        sides = [words(whole, add_special_tokens=False)["input_ids"] for whole in wholes]
        assert all(ids[: len(prompt)] == prompt for ids in sides)
        if len(prompt) < limit and sides[0] != sides[1]:
            yield number, prompt, [ids[len(prompt) : limit] for ids in sides]


@pytest.mark.parametrize("processes", [1, 2])
def test_items_are_those_of_texts_tokenised_one_by_one(large, tmp_path, processes):
    words, dataset = tokenizer(CHATML), many().remove_columns("tools")
    rows = stored(tmp_path, dataset, processes=processes)
    expected = list(row_by_row(dataset, words, 100))
    assert [
        (item.row, list(item.prompt), [list(ids) for ids in item.completions])
        for item in rows.items
    ] == expected
    assert rows.tally.completions_cut > 0
    sizes = [len(prompt) + max(map(len, sides)) for _, prompt, sides in expected]
    assert rows.length_I.tolist() == sizes
    assert rows.largest_token == max(
        max(*prompt, *sides[0], *sides[1]) for _, prompt, sides in expected
    )
    assert 6 <= len(list(tmp_path.glob("tokens-*/*.arrow"))) <= 7


@pytest.mark.parametrize("make", [chat_rows, label_rows])
@pytest.mark.parametrize("paired", [True, False])
def test_a_table_says_what_its_rows_say_one_by_one(large, tmp_path, make, paired):
    if make is label_rows and paired:
        pytest.skip("refused")
    dataset = many() if make is chat_rows else Dataset.from_list(label_rows(ROWS))
    rows = stored(tmp_path, dataset, paired=paired)
    tally = rows.tally
    reader = RowReader(tokenizer(CHATML), rows.settings, tally.format)
    results = [reader.read(number, record) for number, record in enumerate(dataset)]
    items = [item for result in results for item in result.items(paired)]
    assert list(rows.items) == items
    assert rows.items[-3:] == items[-3:]
    assert tally.bad == [f"row {r.row}: {r.bad}" for r in results if r.bad]
    assert tally.left_out == [r.left_out for r in results if r.left_out]
    long = [r.too_long for r in results if r.too_long]
    assert (tally.too_long, tally.shortest) == (len(long), min(long, default=0))
    for name in ("close", "prompts_cut", "completions_cut", "endless", "unprompted"):
        assert getattr(tally, name) == sum(getattr(r, name) for r in results)
    if make is chat_rows:
        assert [line[:6] for line in tally.bad] == ["row 3:"]
        assert (tally.too_long, len(tally.left_out), tally.unread) == (1, 1, ["note"])
    if not paired:
        assert rows.desirable == sum(item.desirable for item in items)


def test_the_fingerprint_is_that_of_earlier_versions(large, tmp_path):
    from hashlib import blake2b

    for paired in (True, False):
        rows, digest = stored(tmp_path, many(), paired=paired), blake2b(digest_size=8)
        for item in rows.items:
            for ids in (item.prompt, *item.completions):
                digest.update(np.asarray([len(ids), *ids], dtype=np.int32).tobytes())
            digest.update(repr((item.outcome, item.desirable)).encode())
        assert rows.fingerprint == digest.hexdigest()


def test_a_second_start_reads_what_the_first_has_written(large, tmp_path, counted, capsys):
    first = stored(tmp_path, many())
    assert sorted(counted()) == list(range(ROWS))
    assert "computing 100 of 100 rows: none are stored yet" in capsys.readouterr().out
    # Losses on single completions and another number of processes read the same table.
    for options in ({}, {"paired": False}, {"processes": 2}):
        again = stored(tmp_path, many(), **options)
        assert "100 rows read from" in capsys.readouterr().out
        assert again.tally == first.tally
    assert len(counted()) == ROWS
    assert again.fingerprint == first.fingerprint
    sent = pickle.dumps(again)
    assert pickle.loads(sent).fingerprint == first.fingerprint
    assert len(sent) < len(pickle.dumps(list(again.items)))  # by its path


def test_small_sets_leave_no_table(tmp_path):
    assert len(stored(tmp_path, many())) == 98
    assert list(tmp_path.iterdir()) == []


OTHERS = {
    "data": {"dataset": many(99)},
    "chat template": {"words": tokenizer(LLAMA3)},
    "tokenizer": {"words": tokenizer(CHATML, bos=True)},
    "--max_length": {"max_length": 60},
    "--truncation_mode": {"truncation_mode": "keep_end"},
    "--data_format": {"data_format": "pairs"},
}


def facts(dataset=None, words=None, **settings):
    reader = RowReader(
        words or tokenizer(CHATML), RowSettings(**{"max_length": 100, **settings}), "pairs"
    )
    return token_key(reader, many() if dataset is None else dataset).facts


@pytest.mark.parametrize("fact", OTHERS)
def test_whatever_changes_the_tokens_makes_another_table(fact):
    one, other = facts(), facts(**OTHERS[fact])
    assert [name for name in one if one[name] != other[name]] == [fact]


def test_the_key_is_that_of_the_content_not_of_its_place_or_use(tmp_path):
    from transformers import AutoTokenizer

    save_model(tmp_path / "one"), save_model(tmp_path / "two")
    words = [AutoTokenizer.from_pretrained(tmp_path / name) for name in ("one", "two")]
    words[1](["a", "long text"], padding=True, truncation=True, max_length=3)
    assert facts(words=words[0]) == facts(words=words[1])


def test_a_template_that_writes_the_date_is_computed_anew_every_day():
    assert "date" in facts(words=tokenizer("{{ strftime_now('%d') }}" + CHATML))
    assert "date" not in facts()


def test_a_killed_run_goes_on_where_it_stood(large, tmp_path, counted, monkeypatch):
    noting = tokenise.tokens_of

    def killed(reader, dataset, span):
        if span.start == 48:
            raise KeyboardInterrupt
        return noting(reader, dataset, span)

    monkeypatch.setattr(tokenise, "tokens_of", killed)
    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, many())
    monkeypatch.setattr(tokenise, "tokens_of", noting)
    rows = stored(tmp_path, many())
    assert sorted(counted()) == list(range(ROWS))
    assert len(rows) == 98


def test_two_processes_share_one_table(large, tmp_path, counted):
    fork = multiprocessing.get_context("fork")
    results, start = fork.Queue(), fork.Barrier(2)

    def run():
        start.wait()
        results.put(stored(tmp_path, many(400)).fingerprint)

    both = [fork.Process(target=run) for _ in range(2)]
    [process.start() for process in both]
    fingerprints = {results.get(timeout=60) for _ in both}
    [process.join() for process in both]
    assert sorted(counted()) == list(range(400))
    assert fingerprints == {TextRows(many(400), tokenizer(CHATML), RowSettings(100)).fingerprint}


def test_a_worker_that_is_ended_from_outside_is_one_line(large, tmp_path, monkeypatch):
    monkeypatch.setattr(tokenise, "tokens_of", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(UserError, match="--dataset_num_proc: one of 2 processes"):
        stored(tmp_path, many(), processes=2)


def test_a_mistake_of_the_data_reaches_the_user_from_a_worker(large, tmp_path):
    records = [{**row, "image": "cat.png" if index == 40 else None} for index, row in
               enumerate(chat_rows(ROWS))]  # fmt: skip
    with pytest.raises(UserError, match="column image holds images"):
        stored(tmp_path, Dataset.from_list(records), processes=2)


def test_workers_end_with_a_process_that_is_killed(large, tmp_path, monkeypatch):
    def waiting(*_):
        (tmp_path / str(os.getpid())).touch()
        time.sleep(60)

    monkeypatch.setattr(tokenise, "tokens_of", waiting)
    fork = multiprocessing.get_context("fork")
    parent = fork.Process(target=stored, args=(tmp_path / "tables", many(), None, 2))
    parent.start()
    deadline = time.monotonic() + 30
    while len(workers := [p for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.join()
    while any(is_running(path.name) for path in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_running(process):
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and ") Z" not in stat.read_text()


def test_plain_rows_are_stored_as_well(large, tmp_path):
    plain = Dataset.from_list(pair_rows(40))
    rows = stored(tmp_path, plain, tokenizer())
    assert list(rows.items) == list(TextRows(plain, tokenizer(), RowSettings(100)).items)
