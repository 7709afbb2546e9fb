"""Evaluation end to end on a small trained policy: numbers, pictures, report, mistakes."""

import html
import json
import re
import shutil

import pytest
from datasets import Dataset

from diffdpo.cli import main, run_command
from diffdpo.config import parse
from diffdpo.errors import UserError
from diffdpo.image.evaluate_settings import EvaluateSettings
from tests.commands.image_runs import flags, train
from tests.conftest import script
from tests.factory import make_pairs, pickapic_rows
from tests.processes import run_forked
from tests.runs import only_error

pytestmark = pytest.mark.usefixtures("no_plots")  # but for real processes, which draw them

SMALL = "--num_inference_steps 2 --sample_batch_size 3".split()
QUICK = [*SMALL, *"--num_prompts 4 --images_per_prompt 2 --implicit_draws 1".split()]
WHOLE = [*SMALL, *"--num_prompts 4 --images_per_prompt 2 --implicit_draws 3".split()]


@pytest.fixture(scope="module", params=[4, None], ids=["lora", "full"])
def policy(request, models, pairs, tmp_path_factory):
    out = tmp_path_factory.mktemp("policy") / "run"
    train(*flags(models(), pairs, out, rank=request.param, learning_rate=1e-2, max_train_steps=3))
    return out


ONE_POLICY = pytest.mark.parametrize("policy", [4], ids=["lora"], indirect=True)


def evaluate(model, data, policy, out, *more, size=QUICK):
    words = [
        "--pretrained_model_name_or_path",
        model,
        "--dataset_name",
        data,
        "--policy",
        policy,
        "--output_dir",
        out,
    ]
    return [str(word) for word in [*words, "--split", "train", *size, *more]]


def test_the_evaluation_is_complete(models, pairs, policy, tmp_path):
    rewards = ["--reward", "jpeg_incompressibility", "colourfulness"]
    words = evaluate(models(), pairs, policy, tmp_path, *rewards, size=WHOLE)
    found = run_forked(script("evaluate", *words))
    assert found.returncode == 0, found.stderr
    result = json.loads((tmp_path / "evaluation.json").read_text())
    rate = result["win_rate"]
    assert (rate["n"], rate["clusters"]) == (8, 4)
    assert rate["interval"][0] <= rate["value"] <= rate["interval"][1]
    assert list(result["rewards"]) == ["jpeg_incompressibility", "colourfulness"]
    accuracy = result["implicit_accuracy"]
    assert accuracy["n"] == 12  # pairs without the three ties
    assert sum(row["n"] for row in accuracy["by_timestep"]) == 12 * 3
    control = accuracy["by_difficulty"]
    assert accuracy["value"] - control["accuracy"] == pytest.approx(control["gain"]["value"])
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 3
    assert "Win rate" in page
    assert "beta_dpo: 5000" in page
    assert result["trained_on"]["prompts"] == {"prompts": 4, "in_training_set": 4}
    assert result["trained_on"]["pairs"] == {"prompts": 12, "in_training_set": 12}
    accuracy_line, rate_line, report_line = found.stdout.strip().splitlines()[-3:]
    assert "on 12 pairs of 12 prompts, 12 of them in the set it was trained on" in accuracy_line
    assert (
        f"; {100 * control['accuracy']:.1f} % follow from which picture is easier" in accuracy_line
    )
    assert rate_line.startswith("win rate")
    told = "8 pictures of 4 prompts, 4 of them in the set it was trained on (not significant: "
    assert told in rate_line
    assert report_line.endswith("report.html")
    # The page says what the terminal says.
    headline = re.search('<p class="headline">(.*?)</p>', page)[1]
    assert html.unescape(headline) == "Win rate " + rate_line.removeprefix("win rate     ")
    assert html.unescape(accuracy_line.removeprefix("implicit     ")) in html.unescape(page)
    assert "held-out" not in page


def test_an_accuracy_at_a_part_of_t_says_so(models, pairs, policy, tmp_path, capsys):
    words = evaluate(models(), pairs, policy, tmp_path, "--timestep_range", "0.6", "1", size=QUICK)
    assert run_command("evaluate", words) == 0
    (line,) = re.findall(r"^implicit .*$", capsys.readouterr().out, re.MULTILINE)
    assert line.endswith("; at t of 0.6 to 1 alone, --timestep_range 0 1 judges all")
    accuracy = json.loads((tmp_path / "evaluation.json").read_text())["implicit_accuracy"]
    assert accuracy["timestep_range"] == [0.6, 1.0]
    assert min(row["timesteps"][0] for row in accuracy["by_timestep"]) == 600


@ONE_POLICY
def test_held_out_is_said_where_it_was_checked(models, pairs, policy, tmp_path, capsys):
    words = ["--reward", "colourfulness", "--implicit_draws", "1"]
    rows = [row | {"caption": f"new {row['caption']}"} for row in pickapic_rows(4)]
    rows[0]["caption"] = "  Picture   0"  # the same prompt but for case and white space
    Dataset.from_list(rows).to_parquet(tmp_path / "mixed" / "train-0.parquet")
    mixed = judge(policy, tmp_path / "a", "--dataset_name", tmp_path / "mixed", *words)
    assert mixed["trained_on"]["prompts"] == {"prompts": 4, "in_training_set": 1}
    page = (tmp_path / "a" / "report.html").read_text()
    assert "4 prompts, 1 of them in the set it was trained on" in page
    Dataset.from_list(rows[1:]).to_parquet(tmp_path / "new" / "train-0.parquet")
    new = judge(policy, tmp_path / "b", "--dataset_name", tmp_path / "new", *words)
    assert new["trained_on"]["prompts"] == {"prompts": 3, "in_training_set": 0}
    assert "6 pictures of 3 held-out prompts" in (tmp_path / "b" / "report.html").read_text()
    shutil.copytree(policy, tmp_path / "older")
    (tmp_path / "older" / "trained_on.safetensors").unlink()
    older = judge(tmp_path / "older", tmp_path / "c", "--dataset_name", tmp_path / "new", *words)
    assert older["trained_on"]["prompts"] == {"prompts": 3, "in_training_set": None}
    page = (tmp_path / "c" / "report.html").read_text()
    assert "3 prompts, not known whether trained on" in page
    assert "held-out" not in page
    assert "held-out" not in capsys.readouterr().out.splitlines()[-2]


def test_a_policy_against_itself_is_a_tie(models, pairs, tmp_path):
    train(*flags(models(), pairs, tmp_path / "run", learning_rate=0, max_train_steps=1))
    words = evaluate(
        models(), pairs, tmp_path / "run", tmp_path / "out", "--reward", "colourfulness"
    )
    assert run_command("evaluate", words) == 0
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["win_rate"]["value"] == 0.5
    assert result["rewards"]["colourfulness"]["difference"]["value"] == 0
    assert result["implicit_accuracy"]["value"] == 0.5


@pytest.mark.parametrize("rank", [4, None])
def test_a_run_in_bfloat16_is_judged_in_bfloat16(models, pairs, tmp_path, rank):
    """Network, encoders and policy are loaded in it; another precision is one flag away."""
    out = tmp_path / "run"
    more = {"mixed_precision": "bf16", "learning_rate": 1e-2, "max_train_steps": 1}
    train(*flags(models(), pairs, out, rank=rank, **more))
    few, found = ["--num_prompts", "2", "--reward", "colourfulness"], {}
    for name, words in {"own": [], "full": ["no"]}.items():
        given = ["--mixed_precision", *words] if words else []
        command = evaluate(models(), pairs, out, tmp_path / name, *few, *given)
        assert run_command("evaluate", command) == 0
        found[name] = json.loads((tmp_path / name / "evaluation.json").read_text())
    assert found["own"]["settings"]["mixed_precision"] == "bf16"
    assert found["own"]["rewards"] != found["full"]["rewards"]


@ONE_POLICY
def test_the_same_evaluation_twice_gives_the_same_numbers(models, pairs, policy, tmp_path):
    results = []
    for name in ("a", "b"):
        words = evaluate(
            models(),
            pairs,
            policy,
            tmp_path / name,
            "--reward",
            "colourfulness",
            "--implicit_draws",
            1,
        )
        assert run_command("evaluate", words) == 0
        result = json.loads((tmp_path / name / "evaluation.json").read_text())
        results.append({key: result[key] for key in ("win_rate", "rewards", "implicit_accuracy")})
    assert results[0] == results[1]


def test_sampled_pairs_are_labelled_by_the_reward_and_can_be_trained_on(models, pairs, tmp_path):
    words = [
        "--pretrained_model_name_or_path",
        models(),
        "--dataset_name",
        pairs,
        "--output_dir",
        tmp_path / "new",
    ]
    words += ["--num_inference_steps", 2, "--reward", "colourfulness"]
    words += ["--precompute_dir", tmp_path / "tables"]
    assert run_command("make_pairs", [str(word) for word in words]) == 0
    from datasets import load_dataset

    rows = load_dataset(
        "parquet", data_files=str(tmp_path / "new" / "train-00000.parquet"), split="train"
    )
    assert len(rows) == 15
    for row in rows:
        assert row["label_0"] == (row["colourfulness_0"] > row["colourfulness_1"])
    train(*flags(models(), tmp_path / "new", tmp_path / "run", max_train_steps=1))


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--policy", "/no/such/run"], "did its run finish"),
        (["--reward", "beauty"], "--reward 'beauty' is unknown"),
        (["--num_prompts", "0"], "--num_prompts must be at least 1"),
        (["--split", "held_out"], "has no split 'held_out'"),
    ],
)
def test_mistakes_are_one_line(models, pairs, tmp_path, capsys, more, line):
    (tmp_path / "unet").mkdir()
    words = evaluate(models(), pairs, tmp_path, tmp_path / "out", *more)
    assert run_command("evaluate", words) == 2
    assert line in only_error(capsys)


def test_only_ties_are_named(models, tmp_path, capsys):
    data = make_pairs(tmp_path / "ties", 2, ties=2)
    (tmp_path / "unet").mkdir()
    assert run_command("evaluate", evaluate(models(), data, tmp_path, tmp_path / "out")) == 2
    assert "are ties" in capsys.readouterr().err


def test_the_command_without_a_name_lists_the_commands(capsys):
    assert main([]) == 2
    assert main(["--help"]) == 0
    assert "train_diffusion_dpo" in capsys.readouterr().err


def judge(policy, out, *more):
    """The evaluation of a run by what its own config.yaml says."""
    words = ["--policy", policy, "--output_dir", out, "--split", "train", *QUICK, *more]
    assert run_command("evaluate", [str(word) for word in words]) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_a_run_from_another_unet_is_judged_against_that_unet(models, pairs, tmp_path, capsys):
    """At rate 0 the policy is its reference: half of the pictures win, by nothing."""
    first = {"rank": None, "learning_rate": 1e-2, "max_train_steps": 3}
    train(*flags(models(), pairs, tmp_path / "first", **first))
    start = {"rank": None, "unet_init": tmp_path / "first", "learning_rate": 0}
    train(*flags(models(), pairs, tmp_path / "second", **start, max_train_steps=1))
    capsys.readouterr()
    result = judge(tmp_path / "second", tmp_path / "out", "--reward", "colourfulness")
    assert result["win_rate"]["value"] == 0.5
    assert result["rewards"]["colourfulness"]["difference"]["value"] == 0
    assert result["implicit_accuracy"]["value"] == 0.5
    shown = capsys.readouterr().out
    assert f"unet_init {tmp_path / 'first'}" in shown
    assert "note         not the run's" not in shown
    # And against the pipeline's own UNet it is another network.
    other = judge(tmp_path / "second", tmp_path / "other", "--unet_init", "", "--reward",
                  "colourfulness")  # fmt: skip
    assert other["rewards"]["colourfulness"]["difference"]["value"] != 0
    shown = capsys.readouterr().out
    assert f"not the run's --unet_init none: the run was trained with {tmp_path / 'first'}" in shown


@ONE_POLICY
def test_model_and_data_come_from_the_run_unless_told_otherwise(models, pairs, policy, tmp_path):
    told = evaluate(models(), pairs, policy, tmp_path / "told", "--reward", "colourfulness")
    assert run_command("evaluate", told) == 0
    own = judge(policy, tmp_path / "own", "--reward", "colourfulness")
    assert own["settings"]["pretrained_model_name_or_path"] == str(models())
    assert own["settings"]["dataset_name"] == str(pairs)
    assert own["settings"]["resolution"] == 32
    told = json.loads((tmp_path / "told" / "evaluation.json").read_text())
    for key in ("win_rate", "rewards", "implicit_accuracy"):
        assert own[key] == told[key]
    few = make_pairs(tmp_path / "few", 4)
    assert judge(policy, tmp_path / "few_out", "--dataset_name", few)["settings"][
        "dataset_name"
    ] == str(few)


def test_what_the_run_says_beside_its_model_and_data(tmp_path):
    (tmp_path / "unet").mkdir()  # as in the folder of a result
    (tmp_path / "config.yaml").write_text(
        "pretrained_model_name_or_path: a/model\nrevision: v2\ndataset_name: a/set\n"
        "pretrained_vae_model_name_or_path: a/vae\nchosen_column: good\nis_turbo: true\n"
        "resolution: 48\nnoise_offset: 0.1\ndataset_split_name: train\nbeta_dpo: 1\n"
    )
    policy = ["--policy", str(tmp_path)]
    settings, (line,) = parse(EvaluateSettings, policy)
    assert (settings.revision, settings.pretrained_vae_model_name_or_path) == ("v2", "a/vae")
    assert (settings.chosen_column, settings.is_turbo, settings.resolution) == ("good", True, 48)
    assert (settings.noise_offset, settings.dataset_split_name) == (0.1, "test")
    assert line.startswith("from the run")
    assert "pretrained_vae_model_name_or_path a/vae" in line
    settings, (line,) = parse(EvaluateSettings, [*policy, "--dataset_name", "b/set"])
    assert (settings.dataset_name, settings.chosen_column, settings.revision) == (
        "b/set",
        None,
        "v2",
    )
    assert "dataset_name" not in line
    other = ["--pretrained_model_name_or_path", "b/model", "--resolution", "32"]
    settings, _ = parse(EvaluateSettings, [*policy, *other])
    assert (settings.revision, settings.resolution, settings.is_turbo) == (None, 32, True)


def test_a_damaged_config_of_the_run_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [b\n")
    with pytest.raises(UserError, match=r"config\.yaml"):
        parse(EvaluateSettings, ["--policy", str(tmp_path)])
