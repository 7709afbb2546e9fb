"""Evaluation of a language model end to end: figures, report, mistakes."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffdpo.cli import run_command
from diffdpo.config import parse
from diffdpo.text.evaluate_settings import EvaluateTextSettings
from tests.conftest import script
from tests.processes import run_forked
from tests.runs import only_error
from tests.text.factory import save_model
from tests.text.runs import flags, train

pytestmark = pytest.mark.usefixtures("no_plots")
QUICK = "--split train --num_prompts 6 --samples_per_prompt 2 --max_new_tokens 8".split()
QUICK += ["--reward", "sentiment"]


@pytest.fixture(scope="module", params=[True, None], ids=["lora", "full"])
def policy(request, lm, data, tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "run"
    train(*flags(lm, data["pairs"], out, use_peft=request.param, learning_rate=1e-2))
    return out


def evaluate(lm, pairs, policy, out, *more):
    words = [
        "--model_name_or_path",
        lm,
        "--dataset_name",
        pairs,
        "--policy",
        policy,
        "--output_dir",
        out,
    ]
    return [str(word) for word in [*words, *QUICK, *more]]


def test_the_evaluation_is_complete(lm, data, policy, tmp_path):
    found = run_forked(script("evaluate_text", *evaluate(lm, data["pairs"], policy, tmp_path)))
    assert found.returncode == 0, found.stderr
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["implicit_accuracy"]["value"] == 1  # of the rows it was trained on
    for name in ("policy_reward", "reference_reward", "difference", "win_rate", "kl"):
        assert (result[name]["n"], result[name]["clusters"]) == (12, 6)
    means = [result[name]["value"] for name in ("policy_reward", "reference_reward", "difference")]
    assert means[2] == pytest.approx(means[0] - means[1], abs=1e-9)
    assert result["kl"]["value"] > 0.1
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "learning_rate: 0.01" in page
    last = found.stdout.strip().splitlines()[-4:]
    assert [line.split()[0] for line in last] == ["reward", "difference", "KL", "report"]


def test_prompts_come_from_rows_of_either_kind(lm, data, policy, tmp_path):
    results = []
    for name in ("labels", "pairs"):
        words = evaluate(lm, data["pairs"], policy, tmp_path / name, "--prompts_name", data[name])
        assert run_command("evaluate_text", words) == 0
        results.append(json.loads((tmp_path / name / "evaluation.json").read_text()))
    for result in results:
        del result["settings"]
    assert results[0] == results[1]  # the same prompts in both files: and the same figures twice


def test_a_model_against_itself_wins_nothing(lm, data, tmp_path):
    assert run_command("evaluate_text", evaluate(lm, data["pairs"], lm, tmp_path)) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text())
    assert result["difference"]["value"] == result["kl"]["value"] == 0
    assert result["win_rate"]["value"] == result["implicit_accuracy"]["value"] == 0.5


MISTAKES = {
    "no policy there": (
        ["--policy", "/no/such/run"],
        "--policy /no/such/run: no such folder; did its run finish?",
    ),
    "count": (["--num_prompts", "0"], "--num_prompts must be at least 1"),
    "split": (["--dataset_name", "/no/such/rows"], "no such file or folder"),
    "typo": (["--num_prompt", "3"], "did you mean --num_prompts?"),
}


@pytest.mark.parametrize(("more", "line"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(lm, data, tmp_path, capsys, more, line):
    assert run_command("evaluate_text", evaluate(lm, data["pairs"], lm, tmp_path, *more)) == 2
    assert line in only_error(capsys)


def test_what_must_be_named_is_named(lm, tmp_path, capsys):
    assert run_command("evaluate_text", []) == 2
    assert "--policy is needed" in capsys.readouterr().err
    assert run_command("evaluate_text", ["--policy", str(lm), "--model_name_or_path", str(lm)]) == 2
    assert "name both, or none" in capsys.readouterr().err


@pytest.mark.parametrize(("size", "line"), [(50, "the model knows 50 tokens"), (4096, "")])
def test_a_policy_may_pad_its_vocabulary_and_not_cut_it(size, line, lm, data, tmp_path, capsys):
    policy = tmp_path / "other"
    shutil.copytree(lm, policy)
    network = AutoModelForCausalLM.from_pretrained(lm)
    network.resize_token_embeddings(size, mean_resizing=False)
    network.save_pretrained(policy)
    words = evaluate(lm, data["pairs"], policy, tmp_path / "out")
    assert run_command("evaluate_text", words) == (2 if line else 0)
    assert line in capsys.readouterr().err


def test_a_policy_of_another_tokenizer_is_refused(lm, data, tmp_path, capsys):
    policy = tmp_path / "other"
    shutil.copytree(lm, policy)
    tokenizer = AutoTokenizer.from_pretrained(lm)
    tokenizer.add_tokens(["<unheard>"])
    tokenizer.save_pretrained(policy)
    words = evaluate(lm, data["pairs"], policy, tmp_path / "out")
    assert run_command("evaluate_text", words) == 2
    line = f"--policy {policy}: has another tokenizer (1 words differ, such as '<unheard>')"
    assert line in capsys.readouterr().err


def judge(policy, out, *more):
    """The evaluation of a run by what its own config.yaml says."""
    words = ["--policy", policy, "--output_dir", out, *QUICK, *more]
    assert run_command("evaluate_text", [str(word) for word in words]) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_reference_and_rows_come_from_the_run(lm, data, policy, tmp_path, capsys):
    told = evaluate(lm, data["pairs"], policy, tmp_path / "told")
    assert run_command("evaluate_text", told) == 0
    capsys.readouterr()
    own, told = judge(policy, tmp_path / "own"), tmp_path / "told" / "evaluation.json"
    shown = capsys.readouterr().out
    assert f"from the run model_name_or_path {lm}" in shown
    assert "12 texts of 6 prompts, 6 of them in the set it was trained on" in shown
    assert "accuracy on 12 pairs, 12 of them in the set it was trained on" in shown
    assert "note         not the run's" not in shown
    assert own == json.loads(told.read_text()) | {"settings": own["settings"]}


def test_new_answers_to_known_prompts_are_held_out_pairs(lm, data, policy, tmp_path, capsys):
    rows = [json.loads(line) for line in data["pairs"].read_text().splitlines()]
    for row in rows[1:]:
        row["chosen"], row["rejected"] = row["chosen"] + " now", row["rejected"] + " then"
    new = tmp_path / "new.jsonl"
    new.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = judge(policy, tmp_path / "out", "--dataset_name", new, "--prompts_name", new)
    assert result["trained_on"] == {
        "prompts": {"prompts": 6, "in_training_set": 6},
        "pairs": {"pairs": 12, "in_training_set": 1},
    }


def test_a_further_trained_adapter_is_judged_against_the_one_it_began_from(
    lm, data, tmp_path, capsys
):
    """At rate 0 the policy is its reference, which is the adapter and not the model under it."""
    changes = {"use_peft": True, "learning_rate": 1e-2}
    train(*flags(lm, data["chats"], tmp_path / "sft", loss_type="sft", **changes))
    train(*flags(tmp_path / "sft", data["chats"], tmp_path / "dpo", learning_rate=0))
    result = judge(tmp_path / "dpo", tmp_path / "out")
    assert result["difference"]["value"] == result["kl"]["value"] == 0
    assert result["implicit_accuracy"]["value"] == 0.5
    under = judge(tmp_path / "dpo", tmp_path / "under", "--reference", lm)
    assert under["kl"]["value"] > 0.1
    line = f"not the run's --model_name_or_path {lm}: the run was trained with {tmp_path / 'sft'}"
    assert line in capsys.readouterr().out


def test_another_model_that_was_the_reference_is_the_reference(lm, data, tmp_path):
    other = save_model(tmp_path / "other", seed=3)
    words = flags(lm, data["pairs"], tmp_path / "run", ref_model_name_or_path=other)
    train(*words)
    assert judge(tmp_path / "run", tmp_path / "out")["settings"]["model_name_or_path"] == str(other)


def test_what_the_run_held_out_is_what_it_is_judged_on(tmp_path):
    (tmp_path / "config.json").touch()  # as in the folder of a result
    (tmp_path / "config.yaml").write_text(
        "model_name_or_path: a/model\nmodel_revision: v2\ndataset_name: a/set\nmax_length: 77\n"
        "dataset_config: easy\ndataset_test_split: held\neval_dataset_name: b/set\nbeta: 1\n"
    )
    policy = ["--policy", str(tmp_path)]
    settings, _ = parse(EvaluateTextSettings, policy)
    assert (settings.dataset_name, settings.split, settings.max_length) == ("b/set", "held", 77)
    assert (settings.model_revision, settings.dataset_config) == ("v2", "easy")
    settings, _ = parse(EvaluateTextSettings, [*policy, "--dataset_name", "c/set"])
    assert (settings.split, settings.dataset_config) == ("test", None)
