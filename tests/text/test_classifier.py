"""A sequence classifier as a reward: the numbers of TRL's own call, whatever the batch, whatever it
pads with."""

import json
import re

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)
from trl.data_utils import apply_chat_template

from diffdpo.cli import run_command
from diffdpo.errors import UserError
from diffdpo.metrics import TEXT_REWARDS, open_text_rewards
from diffdpo.metrics.reward_settings import TextRewardSettings
from diffdpo.metrics.stored import signed_on
from diffdpo.metrics.text_reward import TextReward
from tests.text.factory import CHATML, model, tokenizer, user

PROMPTS = ["The inn", "noon in rain", "a", "yes, the end is", "then a thin cat"]
COMPLETIONS = [" is good", "!", " thin thing then", " near", " sat in the inn at noon"]


def save(folder, template=None, kind="llama", labels=1, pad=2, positions=64):
    """A tiny classifier of random weights with its tokenizer."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 271, "hidden_size": 32, "num_hidden_layers": 1}
    sizes |= {"intermediate_size": 48, "num_attention_heads": 2, "num_labels": labels}
    sizes |= {"max_position_embeddings": positions, "initializer_range": 0.3}
    if kind == "bert":
        network = BertForSequenceClassification(BertConfig(**sizes, pad_token_id=pad))
    else:
        network = LlamaForSequenceClassification(LlamaConfig(**sizes, pad_token_id=pad))
    network.save_pretrained(folder)
    tokenizer(template, bos=template is None).save_pretrained(folder)
    return folder


def load(folder):
    return TEXT_REWARDS["classifier"](str(folder))


def by_trl(folder, prompts, completions, chats):
    """As the GRPO trainer of TRL calls a reward model, on rows padded by the tokenizer."""
    network = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    reader = tokenizer(CHATML if chats else None, bos=not chats)
    network.config.pad_token_id = reader.pad_token_id
    if not chats:
        texts = [p + c for p, c in zip(prompts, completions, strict=True)]
    else:
        answers = [[{"role": "assistant", "content": text}] for text in completions]
        whole = [{"messages": p + c} for p, c in zip(prompts, answers, strict=True)]
        texts = [apply_chat_template(row, reader)["text"] for row in whole]
    rows = reader(
        text=texts,
        return_tensors="pt",
        padding=True,
        padding_side="right",
        add_special_tokens=not chats,
        return_token_type_ids=False,
    )
    with torch.inference_mode():
        return network(**rows).logits[:, 0].double().numpy()


@pytest.mark.parametrize(("kind", "chats"), [("llama", False), ("llama", True), ("bert", False)])
def test_numbers_are_those_of_trl_and_of_any_batch(kind, chats, tmp_path):
    folder = save(tmp_path / "judge", CHATML if chats else None, kind)
    reward = load(folder)
    prompts = [[user(text)] for text in PROMPTS] if chats else PROMPTS
    scores = reward(prompts, COMPLETIONS)
    assert scores == pytest.approx(by_trl(folder, prompts, COMPLETIONS, chats), abs=1e-6)
    alone = [reward([p], [c])[0] for p, c in zip(prompts, COMPLETIONS, strict=True)]
    assert scores == pytest.approx(alone, abs=1e-5)
    assert np.ptp(scores) > 0.1
    backwards = reward(prompts[::-1], COMPLETIONS[::-1])
    assert scores[::-1] == pytest.approx(backwards, abs=1e-5)
    assert scores.dtype == np.float64


def test_plain_text_is_the_users_where_there_is_a_template_and_nothing_to_pad_with_is_fine(
    tmp_path,
):
    folder = save(tmp_path / "judge", CHATML, pad=None)
    chats = [[user(text)] for text in PROMPTS]
    scores = load(folder)(PROMPTS, COMPLETIONS)
    assert scores == pytest.approx(by_trl(folder, chats, COMPLETIONS, True), abs=1e-5)
    assert abs(scores - load(folder)([[user("other")]] * 5, COMPLETIONS)).min() > 1e-4


def test_what_is_too_long_loses_its_end_and_is_counted(tmp_path):
    reward = load(save(tmp_path / "judge", positions=16))
    assert reward.too_long(PROMPTS, COMPLETIONS) == sum(
        1 + len(tokenizer()(p + c)["input_ids"]) > 16
        for p, c in zip(PROMPTS, COMPLETIONS, strict=True)
    )
    same = reward(["a" * 15] * 2, ["b", "another end"])
    assert same[0] == same[1] != reward(["a" * 14], ["b"])[0]


def test_the_identity_follows_weights_and_template(tmp_path):
    first = dict(load(save(tmp_path / "a")).identity)
    assert first == dict(load(save(tmp_path / "b")).identity)
    assert first["text"] == "prompt and completion"
    assert first["tokens"] == "64"
    network = LlamaForSequenceClassification.from_pretrained(tmp_path / "a")
    network.score.weight.data[0, 0] += 1
    network.save_pretrained(tmp_path / "a")
    assert dict(load(tmp_path / "a").identity) | {"weights": first["weights"]} == first
    assert load(tmp_path / "a").identity["weights"] != first["weights"]
    other = load(save(tmp_path / "c", CHATML)).identity
    assert other["text"].startswith("chat template ")


def test_half_precision_is_asked_for_and_logits_are_float32(tmp_path):
    folder = save(tmp_path / "judge")
    full = load(folder)(PROMPTS, COMPLETIONS)
    (half,) = open_text_rewards(
        ["classifier"], {"classifier": str(folder)}, "cpu", torch.bfloat16
    ).values()
    scores = half(PROMPTS, COMPLETIONS)
    assert not np.array_equal(scores, full)
    assert scores == pytest.approx(full, abs=0.2)


def test_what_is_no_judge_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"name its folder, --reward_model classifier=PATH"):
        TEXT_REWARDS["classifier"]()
    with pytest.raises(UserError, match="has 3 labels; a reward has one"):
        load(save(tmp_path / "three", labels=3))
    with pytest.raises(UserError, match=r"config.json is missing there"):
        load(tmp_path)
    # A language model has no head of this kind: drawn anew, its numbers would mean nothing.
    model().save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    config = json.loads((tmp_path / "lm" / "config.json").read_text()) | {"num_labels": 1}
    (tmp_path / "lm" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"lacks 1 of the network's weights \(score.weight\)"):
        load(tmp_path / "lm")
    with pytest.raises(UserError, match="conversations, and its tokenizer has no chat template"):
        load(save(tmp_path / "plain"))([[user("a")]], ["b"])


def test_settings_check_names_and_paths(tmp_path):
    words = {"reward": ["classifier"], "reward_model": ["classifier=/no/such"]}
    (line,) = TextRewardSettings(**words).problems()
    assert "no such file or folder" in line
    (line,) = TextRewardSettings(reward=["colourfulness"]).problems()
    assert "known: sentiment, classifier" in line
    own = TextReward("own", lambda p, c: np.zeros(len(p)), {"rule": "nothing"})
    assert TEXT_REWARDS.keys() == {"sentiment", "classifier", "judge"}
    assert own.signature == "rule nothing"
    # Scores in another precision are other numbers, stored and told apart.
    judge = TextReward("own", own.score, own.identity, torch.nn.Linear(1, 1))
    halved = judge.to("cpu", torch.bfloat16)
    assert halved.signature == "rule nothing, precision bfloat16"
    assert signed_on(halved, torch.device("cpu")) == f"{halved.signature}, cpu"


def test_an_evaluation_by_two_judges_of_a_model_of_chats(tmp_path, lm, data, capsys):
    folder = save(tmp_path / "judge", CHATML, positions=40)
    words = ["--policy", lm, "--model_name_or_path", lm, "--dataset_name", data["chats"]]
    words += ["--reward", "classifier", "sentiment", "--reward_model", f"classifier={folder}"]
    words += ["--split", "train", "--num_prompts", 4, "--samples_per_prompt", 1]
    words += ["--max_new_tokens", 4, "--output_dir", tmp_path / "out", "--reward_batch_size", 3]
    assert run_command("evaluate_text", [str(word) for word in words]) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert list(result["rewards"]) == ["classifier", "sentiment"]
    assert result["reward"] == "classifier"
    assert result["policy_reward"] == result["rewards"]["classifier"]["policy_reward"]
    identity = {**load(folder).identity, "precision": "float32"}
    assert result["rewards"]["classifier"]["identity"] == identity
    assert result["rewards"]["sentiment"]["identity"]["rule"].startswith("VADER 3")
    shown = capsys.readouterr().out
    assert f"judge        classifier: weights {identity['weights']}" in shown
    assert "(classifier)" in shown
    assert re.search(r"note         classifier cuts [1-4] of 4 texts: too long", shown)


def test_an_evaluation_without_a_judge_needs_none(tmp_path, lm, data, monkeypatch, capsys):
    import diffdpo.errors

    monkeypatch.setattr(diffdpo.errors, "find_spec", lambda wanted: None)
    words = ["--policy", lm, "--model_name_or_path", lm, "--dataset_name", data["pairs"]]
    words += ["--split", "train", "--num_prompts", 2, "--max_new_tokens", 2]
    words += ["--output_dir", tmp_path]
    assert run_command("evaluate_text", [str(word) for word in words]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["rewards"] == {}
    assert "win_rate" not in result
    assert result["implicit_accuracy"]["value"] == 0.5
    assert "no --reward: the figures are implicit accuracy and KL" in capsys.readouterr().out
