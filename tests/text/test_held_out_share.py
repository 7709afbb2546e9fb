"""A held-out share that is cut from the data: whole prompts, by the seed, never trained on."""

import pytest
from datasets import Dataset

from diffdpo.errors import UserError
from diffdpo.text.reading.rows import TextRows
from diffdpo.text.settings import TextSettings
from diffdpo.text.tokens.row_reader import RowSettings
from tests.text.factory import pair_rows, tokenizer, write_jsonl
from tests.text.runs import fails_with, flags, train

# Three rows of each prompt, far from one another.
ROWS = [
    {"prompt": f"say {i % 10}", "chosen": f" yes {i}", "rejected": f" no {i}"} for i in range(30)
]


def texts(rows):
    return [(tuple(item.prompt), tuple(map(tuple, item.completions))) for item in rows.items]


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize(("wanted", "count"), [(0.2, 6), (9, 9)])
def test_whole_prompts_are_held_out_by_the_seed(paired, wanted, count):
    def both(seed):
        rows = TextRows(Dataset.from_list(ROWS), tokenizer(), RowSettings(paired=paired))
        everything, before = texts(rows), rows.fingerprint
        wanted_items = wanted if wanted < 1 or paired else 2 * wanted
        other = rows.hold_out(wanted_items, seed)
        assert sorted(texts(rows) + texts(other)) == sorted(everything)
        assert len({rows.fingerprint, other.fingerprint, before}) == 3
        return rows, other

    rows, other = both(0)
    assert len(other) == count * (1 if paired else 2)
    assert not {tuple(i.prompt) for i in rows.items} & {tuple(i.prompt) for i in other.items}
    assert not other.is_subset_of(rows)
    assert texts(both(0)[1]) == texts(other)
    assert len({str(texts(both(seed)[1])) for seed in range(5)}) > 1


def test_rows_without_prompt_are_each_their_own():
    rows = [{"prompt": "", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(8)]
    table = TextRows(Dataset.from_list(rows), tokenizer(), RowSettings(data_format="pairs"))
    assert len(table.hold_out(0.25, 0)) == 2


def test_a_part_that_cannot_be_had_is_one_line():
    rows = TextRows(Dataset.from_list(ROWS), tokenizer(), RowSettings())
    with pytest.raises(UserError, match=r"--eval_fraction 30: there are 30 pairs"):
        rows.hold_out(30, 0)
    given = {"eval_fraction": 1.5, "eval_dataset_name": "rows", "streaming": True}
    lines = TextSettings(model_name_or_path="m", dataset_name="d/s", **given).problems()
    for part in ("is whole", "nothing is measured", "keep one", "does not see them at once"):
        assert any(line.startswith("--eval_fraction 1.5") and part in line for line in lines)


def test_a_run_measures_on_them_and_trains_on_the_rest(lm, tmp_path, capsys):
    data = write_jsonl(tmp_path / "rows.jsonl", pair_rows(12))
    own = {"val_size": 0.25, "eval_strategy": "steps", "eval_steps": 1, "eval_generations": 0}
    own |= {"max_train_steps": 2, "max_train_samples": 6, "precompute_ref_log_probs": True}
    own["reference_cache_dir"] = tmp_path / "cache"
    train(*flags(lm, data, tmp_path / "run", **own))
    out = capsys.readouterr().out
    assert "eval rows    3 of 12 rows" in out
    assert "rows         6 pairs of 12 rows" in out
    assert "held out     step 2: loss" in out
    assert "on 3 rows\n" in out  # and none of them in the training set
    fails_with(
        flags(lm, data, tmp_path / "no", **{**own, "eval_strategy": "no"}),
        "nothing is measured",
        capsys,
    )
