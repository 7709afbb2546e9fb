"""Evaluations of image–text models: every prompt is continued and scored with its own pictures."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from datasets import Dataset

from diffdpo.cli import run_command
from diffdpo.engine.journal import Journal
from diffdpo.text.sampling.comparison import log_ratios
from diffdpo.text.sampling.generate import SampleSettings, draw, sample, uniforms
from diffdpo.text.scoring.scorer import TokenScorer
from diffdpo.text.task import TextTask
from diffdpo.text.vision.pictures import Look
from tests.text import vision_factory as vision
from tests.text.runs import flags, train
from tests.text.test_vision_against_trl import SLOW, ours

pytestmark = pytest.mark.usefixtures("no_plots")
TASK = TextTask(torch.device("cpu"), nullcontext)
SETTINGS = SampleSettings(seed=3, visits=2, max_new_tokens=6, batch_size=3)
QWEN_2_5 = pytest.param("qwen2_5_vl", marks=pytest.mark.slow)
PICTURES = (4, 8, 4)  # the first and the last are equally large, so that their tokens are the same


def asked(count=1):
    """Rows of one question about other pictures, the last of them without any."""
    rows = [{**vision.pair_rows(1, count)[0], "images": [picture_of(n)] * count} for n in (0, 1, 2)]
    text = [{"role": "user", "content": [{"type": "text", "text": "What is in 7?"}]}]
    return [*rows, {**rows[0], "images": [], "prompt": text}]


def picture_of(number):
    made = vision.picture(PICTURES[number])
    return made.transpose(0) if number == 2 else made


def prompts_of(rows):
    items = rows.items[:]
    looks = [
        Look(item.look, lambda own=item: own.pictures) if item.look else None for item in items
    ]
    return [item.prompt for item in items], looks


def own_inputs(item, ids):
    """The inputs of the library's own pass over a row by itself, without a cache."""
    token_NT = torch.tensor([[*item.prompt, *ids]])
    return {"input_ids": token_NT} | (item.pictures.inputs([0], token_NT) if item.pictures else {})


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", *SLOW, QWEN_2_5])
def test_continuations_and_scores_are_those_of_a_rows_own_pictures(family):
    network, other = vision.model(family), vision.model(family, 1)
    rows = ours(asked(), family)
    prompts, looks = prompts_of(rows)
    assert list(prompts[0]) == list(prompts[2])
    written = sample(network, prompts, (), SETTINGS, looks=looks)
    for number, ids in enumerate(written):
        item = rows.items[number // 2]
        uniform_T = uniforms(3, item.prompt, number % 2, 6, look=item.look)
        network.base_model.rope_deltas = None  # of the row before
        for place, uniform in enumerate(uniform_T):
            with torch.no_grad():
                logits = network(**own_inputs(item, ids[:place])).logits[:, -1]
            assert draw(logits, torch.tensor([uniform])).tolist() == [ids[place]]
    assert written[0] != written[4]  # the same words about another picture
    both = [TokenScorer(network), TokenScorer(other)]
    repeated = [[one for one in every for _ in range(2)] for every in (prompts, looks)]
    ratio_N = log_ratios(TASK, *both, repeated[0], written, 4, repeated[1])
    for number, ids in enumerate(written):
        item, sums = rows.items[number // 2], []
        for one in (network, other):
            one.base_model.rope_deltas = None
            with torch.no_grad():
                logp = one(**own_inputs(item, ids)).logits[0].log_softmax(-1)
            start = len(item.prompt) - 1
            sums.append(logp[range(start, start + len(ids)), ids].sum())
        assert ratio_N[number].item() == pytest.approx((sums[0] - sums[1]).item(), abs=2e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A LoRA's run on pairs of one question, with held-out ones; their folder, and the run's."""
    folder = tmp_path_factory.mktemp("evaluated")
    rows = Dataset.from_list([{**row, "prompt": asked()[0]["prompt"]} for row in pairs()])
    (folder / "data").mkdir()
    rows.select(range(6)).to_parquet(folder / "data" / "train.parquet")
    rows.select(range(6, 12)).to_parquet(folder / "data" / "test.parquet")
    model = vision.save("qwen2_5_vl", folder / "model")
    words = {"use_peft": True, "lr_scheduler": "constant", "learning_rate": 1e-3}
    words |= {"eval_strategy": "epoch", "eval_generations": 0, "image_max_pixels": 3136}
    train(*flags(model, folder / "data", folder / "run", **words))
    return folder


def pairs():
    return [{**row, "images": [vision.picture(n)]} for n, row in enumerate(vision.pair_rows(12))]


QUICK = "--num_prompts 5 --samples_per_prompt 2 --max_new_tokens 5".split()


def evaluate(run, out, *more):
    words = ["--policy", run / "run", "--output_dir", out, *QUICK, *more]
    return run_command("evaluate_text", [str(word) for word in words])


def test_a_run_is_evaluated_on_its_own_pictures(run, tmp_path, capsys):
    (tmp_path / "own.py").write_text(
        "def length(texts):\n    return [len(text) for text in texts]\n"
    )
    assert evaluate(run, tmp_path / "out", "--reward", f"{tmp_path}/own.py:length") == 0
    shown = capsys.readouterr().out
    assert "from the run" in shown
    assert "image_max_pixels 3136" in shown
    assert "10 texts of 5 held-out prompts" in shown  # one question, and no picture of training
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert (found["win_rate"]["n"], found["win_rate"]["clusters"]) == (10, 5)
    assert found["kl"]["value"] > 0
    last = Journal(run / "run" / "eval.jsonl").read()[-1]
    accuracy = found["implicit_accuracy"]
    assert (accuracy["n"], accuracy["clusters"]) == (6, 6)
    assert accuracy["value"] == pytest.approx(last["eval_rewards/accuracies"])


def test_a_model_is_no_distance_from_itself(run, tmp_path):
    words = ["--model_name_or_path", run / "model", "--dataset_name", run / "data"]
    words += ["--policy", run / "model", "--split", "train", "--output_dir", tmp_path / "out"]
    assert run_command("evaluate_text", [str(word) for word in [*words, *QUICK]]) == 0
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["kl"]["value"] == 0
    assert found["implicit_accuracy"]["value"] == 0.5


def refused(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_what_an_evaluation_cannot_do_with_pictures_is_a_line(run, tmp_path, capsys):
    service = ["--generator_url", "http://127.0.0.1:9/v1"]
    assert evaluate(run, tmp_path / "a", *service) == 2
    assert "--generator_url: no pictures are sent to a service" in refused(capsys)
    # A policy whose processor makes other pictures of the same files.
    other = vision.processor("qwen2_5_vl")
    other.image_processor.image_mean = [0.1, 0.1, 0.1]
    vision.save("qwen2_5_vl", tmp_path / "other")
    other.save_pretrained(tmp_path / "other")
    words = ["--model_name_or_path", run / "model", "--dataset_name", run / "data"]
    words += ["--policy", tmp_path / "other", "--output_dir", tmp_path / "b", *QUICK]
    assert run_command("evaluate_text", [str(word) for word in words]) == 2
    assert "its processor makes other pictures than the reference's" in refused(capsys)
    table = Dataset.from_list([{"prompt": "a", "instructions": [], "image": vision.picture(1)}])
    table.to_parquet(tmp_path / "test.parquet")
    assert evaluate(run, tmp_path / "c", "--prompts_name", tmp_path / "test.parquet") == 2
    assert "data: column image: prompts without sides are text alone" in refused(capsys)


def test_random_numbers_tell_pictures_apart():
    one, other = (uniforms(0, (5, 6), 0, 4, look=look) for look in (b"a", b"b"))
    assert not np.array_equal(one, other)
    assert np.array_equal(uniforms(0, (5, 6), 0, 4), uniforms(0, (5, 6), 0, 4, look=b""))
