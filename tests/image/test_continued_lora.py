"""Training on from a LoRA: where it starts, what is its reference, what may be given beside it."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from diffdpo.cli import run_command
from diffdpo.config import parse
from diffdpo.image.evaluate_settings import EvaluateSettings
from diffdpo.image.lora_file import KOHYA_FILE, LORA_FILE
from diffdpo.image.model.network import make_trainable, resolve_lora, starting_point
from diffdpo.image.settings import ImageSettings
from tests.commands.image_runs import flags, metrics, same, train, weights
from tests.commands.test_evaluate import judge
from tests.families.work import fresh
from tests.image.test_lora_files import CPU, KINDS, exported, in_train_mode, output

LN2 = 0.6931471824645996


@pytest.fixture(scope="module")
def first(models, pairs, tmp_path_factory):
    """A finished run of a LoRA."""
    out = tmp_path_factory.mktemp("first") / "run"
    train(*flags(models(), pairs, out, rank=2, learning_rate=1e-2, lora_alpha=4))
    return out


def started(model, source, **changes):
    """A backbone whose network goes on from a LoRA, its reference, and the settings."""
    backbone = fresh(model)
    settings = resolve_lora(backbone, ImageSettings(init_lora=str(source), **changes))
    network = make_trainable(backbone, settings, torch.float32, CPU).train()
    return backbone, starting_point(network, settings), settings


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_the_lora_was_and_that_is_the_reference(kind, models, tmp_path):
    first = exported(models(), tmp_path, **KINDS[kind])
    trained = output(first)
    files = {LORA_FILE, KOHYA_FILE} - ({KOHYA_FILE} if kind == "magnitudes" else set())
    for file in files:
        starts_as(first, trained, kind, tmp_path / file, models())


def starts_as(first, trained, kind, file, model):
    """A run from the file begins with what the first one computed, and returns to it."""
    again, reference, settings = started(model, file)
    network = again.network
    assert settings.rank == 4
    assert settings.use_dora == (kind == "magnitudes")
    close = {"rtol": 0, "atol": 1e-6 if kind == "rank-stabilised" else 0}
    assert torch.allclose(output(again), trained, **close)
    learns, wanted = (
        {name for name, weight in each.named_parameters() if weight.requires_grad}
        for each in (network, first.network)
    )
    assert learns == wanted
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if name in learns:
                weight.add_(0.1)
    with reference.network(network):
        assert torch.allclose(output(again), trained, **close)
    assert not torch.allclose(output(again), trained)


def test_the_base_model_as_reference(models, tmp_path):
    exported(models(), tmp_path)
    again, reference, _ = started(models(), tmp_path, reference="base")
    assert not reference.starts_equal
    plain = output(in_train_mode(fresh(models())))
    with reference.network(again.network):
        assert torch.equal(output(again), plain)


def test_a_run_goes_on_from_a_run(first, models, pairs, tmp_path):
    out = tmp_path / "run"
    train(*flags(models(), pairs, out, rank=None, init_lora=first, checkpointing_steps=2))
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert (saved["rank"], saved["lora_alpha"]) == (2, 4)
    assert saved["lora_target_modules"] == ["to_k", "to_q", "to_v", "to_out.0"]
    lines = metrics(out)
    assert lines[0]["loss"] == LN2
    assert lines[0]["rewards/margins"] == 0
    assert not same(weights(out), weights(first))
    assert set(weights(out)) == set(weights(first))
    base = tmp_path / "base"
    train(*flags(models(), pairs, base, rank=2, init_lora=first, reference="base"))
    assert metrics(base)[0]["rewards/margins"] != 0
    # A resumed run is the same as one that was never stopped.
    shutil.copytree(out, tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-4")
    (tmp_path / "again" / LORA_FILE).unlink()
    words = flags(models(), pairs, tmp_path / "again", rank=None, init_lora=first)
    train(*words, "--checkpointing_steps", 2, "--resume_from_checkpoint", "latest")
    assert metrics(tmp_path / "again") == lines
    assert same(weights(tmp_path / "again"), weights(out))


def test_stored_scores_are_those_of_the_lora(first, models, pairs, tmp_path, capsys):
    shared = {"precompute_dir": tmp_path / "cache", "reference_draws": 1, "max_train_steps": 2}
    train(*flags(models(), pairs, tmp_path / "plain", rank=2, **shared))
    for name, more in (("start", {}), ("base", {"reference": "base"})):
        capsys.readouterr()
        train(
            *flags(models(), pairs, tmp_path / name, rank=None, init_lora=first, **shared, **more)
        )
        tables = {path.name for path in (tmp_path / "cache").glob("reference-*")}
        # Without the LoRA the reference is that of a run of its own, whose scores are read.
        assert len(tables) == 2
        margin = metrics(tmp_path / name)[0]["rewards/margins"]
        assert (margin == 0) == (name == "start")


@pytest.mark.usefixtures("no_plots")
def test_an_evaluation_has_the_runs_own_reference(first, models, pairs, tmp_path):
    still = {"rank": None, "init_lora": first, "learning_rate": 0, "max_train_steps": 1}
    train(*flags(models(), pairs, tmp_path / "start", **still))
    train(*flags(models(), pairs, tmp_path / "base", **still, reference="base"))
    quick = ["--reward", "colourfulness", "--num_prompts", "2", "--implicit_draws", "1"]
    found = judge(tmp_path / "start", tmp_path / "a", *quick)
    assert found["rewards"]["colourfulness"]["difference"]["value"] == 0
    assert found["implicit_accuracy"]["value"] == 0.5
    found = judge(tmp_path / "base", tmp_path / "b", *quick)
    assert found["rewards"]["colourfulness"]["difference"]["value"] != 0
    words = ["--policy", str(tmp_path / "start"), "--init_lora", ""]
    (line,) = parse(EvaluateSettings, words)[0].departures
    assert line.startswith("not the run's --init_lora none: the run was trained with")


def scaled(folder, change):
    """The files of a LoRA with other weights."""
    path = folder / LORA_FILE
    save_file(change(load_file(path)), path)
    return folder


def stray(weights):
    more = {n.replace("mid_block", "no_block"): v.clone() for n, v in weights.items()}
    return weights | more


def of_text(weights):
    return weights | {"text_encoder.a.lora_A.weight": torch.ones(1, 1)}


def odd(weights):
    return {n: torch.full_like(v, torch.nan) for n, v in weights.items()}


# What may not be said beside a LoRA, and LoRAs that cannot be continued.
WRONG = {
    "rank": (["--rank", "3"], None, "--rank 3: the LoRA of --init_lora has 4; leave it out"),
    "alpha": (["--lora_alpha", "1"], None, "--lora_alpha 1.0: the LoRA of --init_lora has 4"),
    "kind": (["--use_dora"], None, "--use_dora True: the LoRA of --init_lora has False"),
    "layers": (["--lora_target_modules", "to_q"], None, "--lora_target_modules to_q: the LoRA"),
    "a full start": (["--unet_init", "."], None, "--unet_init starts a full fine-tune; leave out"),
    "NaN": ([], odd, "NaN or infinite weights"),
    "stray layers": ([], stray, "weights in its LoRA file have no place"),
    "text encoders": ([], of_text, "weights in its LoRA file have no place (1: text_encoder.a"),
    "no LoRA": ([], lambda weights: {"unet.conv_in.weight": torch.ones(1)}, "cannot be loaded"),
}


@pytest.fixture(scope="module")
def good(models, tmp_path_factory):
    """The folder of a LoRA that fits."""
    folder = tmp_path_factory.mktemp("lora")
    exported(models(), folder)
    return folder


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_line(name, good, models, pairs, tmp_path, capsys):
    words, change, line = WRONG[name]
    shutil.copytree(good, tmp_path / "lora")
    if change:
        scaled(tmp_path / "lora", change)
    base = flags(models(), pairs, tmp_path / "run", rank=None, init_lora=tmp_path / "lora")
    capsys.readouterr()
    assert run_command("train_diffusion_dpo", [*base, *words]) == 2
    (shown,) = capsys.readouterr().err.splitlines()
    assert line in shown
    assert len(shown) < 600
