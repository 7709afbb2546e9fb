"""Several data sets as one: rows, counts, what is told; held-out sets with names."""

import pickle
from pathlib import Path

import pytest
from datasets import Dataset

from diffdpo.cli import run_command
from diffdpo.commands import api
from diffdpo.config import parse, read_yaml
from diffdpo.engine.batches import Stream, positions, step_batches
from diffdpo.errors import UserError
from diffdpo.text.flags.sources import Source
from diffdpo.text.reading.mixed import MixedTexts
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.row_reader import RowSettings
from tests.factory import read_jsonl
from tests.text.factory import (
    CHATML,
    chat_rows,
    label_rows,
    model,
    pair_rows,
    tokenizer,
    write_jsonl,
)
from tests.text.runs import fails_with, flags, metrics, train

WORDS = tokenizer(CHATML)


def part(rows, paired=True):
    return TextRows(Dataset.from_list(rows), WORDS, RowSettings(paired=paired))


def mixture(parts, strategy="concat", weights=None, seed=0):
    labels = [f"set {number}" for number in range(len(parts))]
    return MixedTexts(parts, labels, strategy, weights, seed)


def contents(rows):
    return [(list(item.prompt), *map(list, item.completions)) for item in rows.items]


@pytest.mark.parametrize("paired", [True, False])
def test_sets_of_several_formats_are_each_read_by_their_own(paired):
    own = [pair_rows(5), chat_rows(4), *([] if paired else [label_rows(3)])]
    parts = [part(rows, paired) for rows in own]
    both = mixture(parts)
    assert contents(both) == [item for rows in parts for item in contents(rows)]
    assert [item.desirable for item in both.items] == [
        item.desirable for rows in parts for item in rows.items
    ]
    assert both.counts.tolist() == [len(rows) for rows in parts]
    assert both.length_I.tolist() == [n for rows in parts for n in rows.length_I]
    assert both.most_tokens == max(rows.most_tokens for rows in parts)
    assert both.largest_token == max(rows.largest_token for rows in parts)
    assert both.desirable == sum(rows.desirable for rows in parts)
    assert list(map(both.named, (4, 5, 8))) == [
        "row 4 of set 0",
        "row 0 of set 1",
        "row 3 of set 1",
    ]
    assert pickle.loads(pickle.dumps(both)).read(6, 0) == both.read(6, 0)


def test_a_row_that_is_drawn_twice_counts_twice():
    both = mixture([part(pair_rows(3)), part(chat_rows(6))], "interleave_over")
    once = mixture([part(pair_rows(3)), part(chat_rows(6))])
    assert both.counts.tolist() == [6, 6]
    assert [len(list(rows.viewed())) for rows in (both, once)] == [12, 9]
    assert both.fingerprint != once.fingerprint
    assert [bytes(memoryview(item.prompt)) for item in both.viewed()] == [
        bytes(memoryview(item.prompt)) for item in both.items
    ]
    out = both.hold_out(0.25, 0)
    assert len(out) + len(both) == 12
    held = {item.row for item in out.items}  # all copies of a row are on one side
    assert not held & {item.row for item in both.items}


def test_weights_and_seed_make_another_mixture_and_other_stored_scores():
    made = [("of_mixture", [1, 1], 0), ("of_mixture", [2, 1], 0), ("of_set", [0.5, 1], 0)]
    made += [("of_set", [0.5, 1], 1), ("interleave_over", [1, 5], 0), ("concat", None, 0)]
    parts = [part(pair_rows(8)), part(chat_rows(12))]
    names = [mixture(parts, *how).fingerprint for how in made]
    assert len(set(names)) == len(made)
    assert names == [mixture(parts, *how).fingerprint for how in made]


def test_what_a_step_sees_is_a_function_of_the_position():
    both = mixture([part(pair_rows(8)), part(chat_rows(12))], "interleave_over", [1, 2])

    def seen(world, start=0):
        found = {}
        for rank in range(world):
            plan = positions(start, 9, 4 // world, 1, rank, world)
            for step, (batch,) in enumerate(step_batches(Stream(both, 7), plan, list, 1, 0), start):
                found.setdefault(step, []).extend(item.row for item in batch)
        return [sorted(found[step]) for step in sorted(found)]

    assert seen(1) == seen(2)
    assert seen(1)[5:] == seen(2, start=5)
    assert len({row < 8 for step in seen(1) for row in step}) == 2


def test_what_is_told_at_the_start():
    bad = [*pair_rows(30), {"prompt": "q", "chosen": "a", "rejected": "a"}]
    parts = [part(bad), part([*pair_rows(2), *pair_rows(40)[38:]])]
    lines = mixture(parts, "of_mixture", [0.75, 0.25]).lines("pairs")
    assert lines["data"] == (
        "set 0: 12 pairs of 31 rows (pairs, weight 0.75), 1 unusable;"
        " set 1: 4 pairs of 4 rows (pairs, weight 0.25), 0 unusable; mixed by of_mixture"
    )
    assert lines["twice"] == "2 of set 1 stand in an earlier data set as well"
    tally = mixture(parts).tally
    assert (tally.rows, tally.bad) == (35, ["set 0, row 30: chosen and rejected are the same"])


def test_commas_entries_and_names():
    words = ["--dataset", "a/x,b/y", "--interleave_probs", "0.25,0.75"]
    settings, _ = parse(TextSettings, [*words, "--model_name_or_path", "m/m"])
    assert [one.name for one in settings.sources] == ["a/x", "b/y"]
    assert [one.label for one in settings.sources] == ["x", "y"]
    assert settings.mixing == ("of_mixture", [0.25, 0.75])
    settings = TextSettings(dataset_name=["a/x", "b/x"], mix_strategy="interleave_over")
    assert [one.label for one in settings.held_out_sources] == ["a/x", "b/x"]
    assert settings.mixing == ("interleave_over", None)
    parts = [{"path": "a/x", "split": split} for split in ("train", "test")]
    settings = TextSettings(datasets=parts)  # as alignment-handbook's recipes name them
    assert [one.label for one in settings.sources] == ["x train", "x test"]
    assert settings.held_out_sources == [Source("a/x", "test")]
    settings = TextSettings(eval_dataset_name=["hard=a/x", "b/y"], metric_for_best_model="y/loss")
    assert settings.held_out_sources == [
        Source("a/x", "test", label="hard"),
        Source("b/y", "test", label="y"),
    ]
    for said in ("hard/rewards/accuracies", "eval_hard/rewards/accuracies"):
        named = TextSettings(eval_dataset_name=["hard=a/x"], metric_for_best_model=said)
        assert named.best_by == "hard/rewards/accuracies"
    named = TextSettings(eval_dataset_name=["hard=a/x"], metric_for_best_model="eval_hard_loss")
    assert named.best_by == "hard/loss"  # as transformers calls it


def test_a_mixed_run_resumes_bit_for_bit_and_refuses_other_weights(lm, tmp_path, capsys):
    helpful = write_jsonl(tmp_path / "helpful.jsonl", pair_rows(12))
    safe = write_jsonl(tmp_path / "safe.jsonl", chat_rows(20)[12:])
    held = write_jsonl(tmp_path / "held.jsonl", pair_rows(26)[20:])
    common = {"dataset_weights": [3, 1], "checkpointing_steps": 2, "logging_steps": 1}
    common |= {"lr_scheduler": "constant", "eval_strategy": "steps", "eval_steps": 2}
    common |= {"eval_dataset_name": [held, f"known={helpful}"], "eval_generations": 1}
    common |= {"max_new_tokens": 2, "dataset_test_split": "train"}
    common |= {"keep_best": True, "metric_for_best_model": "eval_held_loss"}
    common |= {"precompute_ref_log_probs": True, "reference_cache_dir": tmp_path / "cache"}
    fails_with(
        [*map(str, flags(lm, [helpful, safe], tmp_path / "no", **common))],
        f"all rows of {helpful} are trained on",
        capsys,
    )
    common["eval_dataset_name"] = [held, f"other={tmp_path / 'other.jsonl'}"]
    write_jsonl(tmp_path / "other.jsonl", chat_rows(34)[26:])
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    train(*flags(lm, [helpful, safe], straight, **common))
    said = capsys.readouterr().out
    assert (
        "data         helpful: 12 pairs of 12 rows (pairs, weight 3), 0 unusable; safe: 4" in said
    )
    assert "eval rows    held: 6 of 6 rows" in said
    assert "on 8 rows of other" in said
    train(*flags(lm, [helpful, safe], cut, **common | {"max_train_steps": 2}))
    again = common | {"resume_from_checkpoint": "latest"}
    words = flags(lm, [helpful, safe], cut, **again | {"dataset_weights": [1, 1]})
    assert run_command("train_text_dpo", [*map(str, words)]) == 2
    said = capsys.readouterr().err
    assert "its run has --dataset_weights [3.0, 1.0], this one [1.0, 1.0]" in said
    assert "its run was trained on other data" in said
    train(*flags(lm, [helpful, safe], cut, **again))
    assert metrics(cut) == metrics(straight)
    check_held_out(straight)
    assert read_yaml(str(straight / "config.yaml"))["metric_for_best_model"] == "held/loss"
    shown = (straight / "samples" / "step-4.txt").read_text()
    assert shown.count("[prompt]") == 2


def check_held_out(folder: Path):
    """All together are the mean over the rows of the named sets."""
    for line in read_jsonl(folder / "eval.jsonl"):
        for figure in ("loss", "rewards/accuracies", "rewards/margins", "logps/chosen"):
            each = [line[f"eval_{name}/{figure}"] for name in ("held", "other")]
            mean = (6 * each[0] + 8 * each[1]) / 14
            assert line[f"eval_{figure}"] == pytest.approx(mean, rel=1e-5)


def test_held_out_sets_in_memory_have_names(tmp_path):
    words = tokenizer(CHATML)
    held = {"easy": Dataset.from_list(pair_rows(20)[14:]), "hard": Dataset.from_list(chat_rows(3))}
    api.train_text(
        dataset=Dataset.from_list(pair_rows(12)),
        eval_dataset=held,
        model=model(),
        tokenizer=words,
        output_dir=str(tmp_path / "run"),
        eval_strategy="epoch",
        eval_generations=0,
        max_train_steps=1,
        report_to="none",
    )
    (line,) = read_jsonl(tmp_path / "run" / "eval.jsonl")
    assert {"eval_loss", "eval_easy/loss", "eval_hard/loss"} <= set(line)


def test_a_set_that_cannot_be_read_is_named(lm, data, tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{")
    words = [*map(str, flags(lm, [data["pairs"], broken], tmp_path / "run"))]
    fails_with(words, "data broken: data set", capsys)
    words = [*map(str, flags(lm, [data["pairs"], data["labels"]], tmp_path / "run"))]
    fails_with(words, "data labels: rows of format 'labels' are single labelled items", capsys)
    with pytest.raises(UserError, match="no row of data set 2 is left"):
        mixture([part(pair_rows(4)), part(pair_rows(4))], "of_set", [1, 0.1])
