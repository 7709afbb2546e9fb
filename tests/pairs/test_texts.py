"""From prompts to pairs of completions by the real command, on a tiny language model."""

import json

import pytest
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffdpo.cli import run_command
from diffdpo.draws import Purpose
from diffdpo.text.sampling import candidates
from diffdpo.text.sampling.generate import SampleSettings, continued, uniforms
from tests.factory import read_jsonl
from tests.runs import only_error, words_of
from tests.text import runs

PROMPTS = ["the cat", "a  dog\nsat", "one"]
LENGTH = "def judge(texts): return [float(len(text)) for text in texts]\n"


@pytest.fixture
def words(lm, tmp_path):
    """The flags of a quick command; further ones replace them."""
    (tmp_path / "own.py").write_text(LENGTH)
    lines = [json.dumps({"prompt": prompt}) for prompt in PROMPTS]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))

    def make(out="out", **more):
        given = {
            "model_name_or_path": lm,
            "prompts": tmp_path / "prompts.jsonl",
            "candidates": 3,
            "reward": f"{tmp_path / 'own.py'}:judge",
            "max_new_tokens": 12,
            "precompute_dir": tmp_path / "tables",
            "output_dir": tmp_path / out,
        }
        return words_of({**given, **more})

    return make


@pytest.fixture
def written(monkeypatch):
    """The prompts and candidates that are written."""
    calls = []

    def counted(network, asked, *rest):
        calls.extend((tuple(prompt), number) for prompt, number in asked)
        return continued(network, asked, *rest)

    monkeypatch.setattr(candidates, "continued", counted)
    return calls


def rows_of(folder):
    return load_dataset("parquet", data_files=str(folder / "train-*.parquet"), split="train")


def texts(side):
    return side if isinstance(side, str) else "".join(message["content"] for message in side)


def test_the_better_completion_is_chosen_and_training_reads_the_rows(words, lm, tmp_path, capsys):
    assert run_command("make_pairs", words(soft_labels=4)) == 0
    assert "train with --soft_label_scale 0.25" in capsys.readouterr().out
    rows = rows_of(tmp_path / "out")
    assert 1 <= len(rows) <= 3
    for row in rows:
        assert row["score_chosen"] > row["score_rejected"]
        lengths = [len(texts(row[side])) for side in ("chosen", "rejected")]
        assert row["score_chosen"] - row["score_rejected"] == lengths[0] - lengths[1]
    assert {texts(row["prompt"]) for row in rows} <= set(PROMPTS)  # as they are written
    record = json.loads((tmp_path / "out" / "make_pairs.json").read_text())
    assert list(record["rewards"]) == [f"{tmp_path / 'own.py'}:judge"]
    options = {"soft_label_scale": 0.25, "max_train_steps": 2, "train_batch_size": 1}
    runs.train(*runs.flags(lm, tmp_path / "out", tmp_path / "run", **options))
    assert "not read" not in capsys.readouterr().out


def test_another_reward_or_selection_writes_nothing_and_more_candidates_add(
    words, written, tmp_path
):
    assert run_command("make_pairs", words()) == 0
    assert len(written) == 9
    (tmp_path / "short.py").write_text(LENGTH.replace("float(", "-float("))
    other = {"reward": f"{tmp_path / 'short.py'}:judge"}
    assert run_command("make_pairs", words("other", **other)) == 0
    assert run_command("make_pairs", words("all", select="all")) == 0
    assert len(written) == 9
    assert run_command("make_pairs", words("more", candidates=4)) == 0
    assert [number for _, number in written[9:]] == [3, 3, 3]
    assert run_command("make_pairs", words("seed", seed=2)) == 0
    assert written[12:] == written[:9]


def test_a_completion_is_a_function_of_seed_prompt_and_number_apart_from_evaluation(lm):
    network = AutoModelForCausalLM.from_pretrained(lm).eval()
    ids = AutoTokenizer.from_pretrained(lm)("the cat")["input_ids"]
    settings = SampleSettings(seed=5, max_new_tokens=12, purpose=Purpose.CANDIDATE)
    together = continued(network, [(ids, number) for number in range(3)], (), settings)
    alone = continued(network, [(ids, 2)], (), settings)
    assert together[2] == alone[0]
    both = [uniforms(5, ids, 0, 9, p) for p in (Purpose.CANDIDATE, Purpose.SAMPLE)]
    assert not (both[0] == both[1]).any()


def test_the_prompts_of_a_data_set_and_the_model_of_a_run_are_taken(words, lm, data, tmp_path):
    options = {"use_peft": True, "lora_r": 2, "learning_rate": 1, "max_train_steps": 2}
    runs.train(*runs.flags(lm, data["pairs"], tmp_path / "run", **options))
    policy = {"model_name_or_path": None, "prompts": None, "policy": tmp_path / "run"}
    assert run_command("make_pairs", words(**policy)) == 0
    base = {"prompts": None, "dataset_name": data["pairs"]}
    assert run_command("make_pairs", words("base", **base)) == 0
    made = [json.loads((tmp_path / n / "make_pairs.json").read_text()) for n in ("out", "base")]
    writers = {record["made_by"]["identity"]["writer"] for record in made}
    prompts = {record["made_by"]["identity"]["prompts"] for record in made}
    assert (len(writers), len(prompts)) == (2, 1)
    known = {row["prompt"] for row in read_jsonl(data["pairs"])}
    assert {texts(prompt) for prompt in rows_of(tmp_path / "out")["prompt"]} <= known


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({"reward": None}, "--reward is needed"),
        ({"prompts": None}, "--prompts is needed, or --dataset_name"),
        ({"max_new_tokens": 10**6}, "--max_new_tokens 1000000: after the longest prompt"),
        ({"policy": "/no/run"}, "--policy /no/run: no such folder"),
    ],
)
def test_mistakes_are_one_line(words, capsys, more, line):
    assert run_command("make_pairs", words(**more)) == 2
    assert line in only_error(capsys)


def test_equal_scores_are_left_out_and_said(words, tmp_path, capsys):
    (tmp_path / "own.py").write_text("def judge(texts): return [1.0] * len(texts)\n")
    assert run_command("make_pairs", words()) == 2
    shown = capsys.readouterr()
    assert "3 of equal scores, left out" in shown.out
    assert "all candidates of every prompt have equal scores" in shown.err
