"""Evaluations of several language models: every figure again from evaluations of one."""

import json

import pytest

from diffdpo.cli import run_command
from tests.text.runs import flags, train

pytestmark = pytest.mark.usefixtures("no_plots")
QUICK = "--split train --num_prompts 6 --samples_per_prompt 2 --max_new_tokens 8 --reward"
OWN = "def length(texts):\n    return [float(len(text)) for text in texts]\n"


@pytest.fixture(scope="module")
def place(lm, data, tmp_path_factory):
    """A run with LoRA that has a checkpoint, a full fine-tune, and a reward."""
    folder = tmp_path_factory.mktemp("texts")
    changes = {"learning_rate": 1e-2, "checkpointing_steps": 2}
    train(*flags(lm, data["pairs"], folder / "lora", use_peft=True, **changes))
    train(*flags(lm, data["pairs"], folder / "full", learning_rate=1e-2))
    (folder / "own.py").write_text(OWN)
    return folder


def judge(place, out, *policies):
    words = ["--output_dir", place / out, *QUICK.split(), f"{place / 'own.py'}:length", "--policy"]
    assert run_command("evaluate_text", [str(word) for word in [*words, *policies]]) == 0
    return json.loads((place / out / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def found(place):
    return judge(place, "out", place / "lora", place / "lora" / "checkpoint-2", place / "full")


def test_each_policy_has_the_figures_that_it_has_alone(place, found):
    names = ["lora", "lora-checkpoint-2", "full"]
    assert list(found["policies"]) == names
    alone = judge(place, "alone", place / "full")
    assert "policies" not in alone
    own = found["policies"]["full"]
    for name in ("implicit_accuracy", "kl", "policy_tokens", "reference_tokens", "trained_on"):
        assert own[name] == alone[name]
    (reward,) = own["rewards"]
    figures = dict(alone["rewards"][reward])
    del figures["identity"]
    assert own["rewards"][reward] == figures
    assert found["kl"] == found["policies"]["lora"]["kl"] != own["kl"]  # the first on top


def test_a_checkpoint_is_what_export_makes_of_it(place, found):
    out = place / "exported"
    words = [place / "lora", "--step", 2, "--output_dir", out]
    assert run_command("export", [str(word) for word in words]) == 0
    own = found["policies"]["lora-checkpoint-2"]
    assert judge(place, "of_export", out)["kl"] == own["kl"]
    assert own["kl"]["value"] > 0.01  # or a checkpoint without its weights would do
    assert own["kl"] != found["kl"]


def test_policies_are_held_against_each_other(found):
    rates = {name: one["rewards"] for name, one in found["policies"].items()}
    (reward,) = rates["lora"]
    pairs = {(row["policy"], row["against"]): row["win_rate"]["value"] for row in found["table"]}
    assert len(pairs) == 6
    for row in found["differences"]:
        new, old = (rates[row[side]][reward]["win_rate"]["value"] for side in ("policy", "minus"))
        assert row["difference"]["value"] == pytest.approx(new - old, abs=1e-12)
        assert pairs[row["policy"], "reference"] == new
    assert sum(row["strength"] for row in found["strengths"]["items"]) == pytest.approx(0, abs=1e-6)


def test_a_reward_that_is_length_is_told_by_the_rate_at_equal_lengths(found):
    for one in found["policies"].values():
        for row in one["rewards"].values():
            low, high = row["length_controlled"]["interval"]
            assert low < 0.5 < high
            assert row["p_holm"] == row["p_value"]  # a family of one


def test_the_page_has_a_table_of_all(place, found):
    page = (place / "out" / "report.html").read_text()
    for word in ("Win rates between all", "lora-checkpoint-2", "at equal lengths", "Bradley"):
        assert word in page


def test_instructions_of_prompts_are_checked(place, lm, data, capsys):
    asked = [{"prompt": f"the end {n}", "instructions": [{"name": "words", "least": 5 + n % 2}]}
             for n in range(12)]  # fmt: skip
    asked[0]["instructions"].append({"name": "forbidden", "words": ["zebra"]})
    asked.append({"prompt": "no more", "instructions": []})
    (place / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    words = ["--policy", lm, "--model_name_or_path", lm, "--dataset_name", data["pairs"]]
    words += ["--prompts_name", place / "asked.jsonl", "--output_dir", place / "formats"]
    words += [
        *QUICK.split()[:2],
        "--num_prompts",
        20,
        *QUICK.split()[4:],
        f"{place / 'own.py'}:length",
    ]
    assert run_command("evaluate_text", [str(word) for word in words]) == 0
    found = json.loads((place / "formats" / "evaluation.json").read_text())["formats"]
    assert (found["prompts"]["n"], found["prompts"]["clusters"]) == (24, 12)  # one has none
    assert found["instructions"]["n"] == 26
    assert found["by_name"]["forbidden"]["value"] == 1
    assert found["difference"]["value"] == 0  # a model against itself
    assert found["prompts"]["value"] == found["reference_prompts"]["value"]
    assert "of texts follow all instructions of their prompt" in capsys.readouterr().out
    assert "forbidden" in (place / "formats" / "report.html").read_text()
