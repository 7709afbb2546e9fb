"""A table is found by everything its numbers depend on, and by nothing else."""

import dataclasses
import json
import shutil

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from diffdpo.cache.keys import CANDIDATES, ENCODINGS, SCORES, Key, arithmetic, network_digest
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.pair_settings import TextPairSettings
from diffdpo.text.settings import TextSettings
from tests.commands.image_runs import flags, metrics, train
from tests.factory import unet
from tests.text import runs
from tests.text.factory import model

FIELDS = [
    (settings, field.name)
    for settings in (ImageSettings, TextSettings)
    for field in dataclasses.fields(settings)
]
# What a stored number depends on beside data and networks, written down a second time: a mark that
# is forgotten, or one too many, shows here.
CHANGE_LATENTS = {"resolution", "no_hflip", "max_image_pixels", "max_image_ratio", "num_frames"}
CHANGE_SCORES = {
    ImageSettings: CHANGE_LATENTS
    | {"seed", "timesteps_per_pair", "proportion_empty_prompts", "noise_offset"}
    | {"input_perturbation", "random_crop", "is_turbo"}
    | {"given_noise", "mask_column"}
    | {"mixed_precision", "allow_tf32", "deterministic", "base_precision"}
    | {"weighting_scheme", "logit_mean", "logit_std", "mode_scale"}
    | {"timestep_shift", "timestep_range", "timestep_weight"},
    TextSettings: {"mixed_precision", "allow_tf32", "deterministic", "ld_alpha"}
    | {"base_precision", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type"}
    | {"use_bnb_nested_quant", "bnb_4bit_compute_dtype"},
}

# Of candidates of pairs; the size of pictures and the length of texts are facts of the model.
CHANGE_CANDIDATES = {
    PairSettings: {"num_inference_steps", "guidance_scale", "seed"},
    TextPairSettings: {"max_new_tokens", "seed"},
}
MADE = [(kind, field.name) for kind in CHANGE_CANDIDATES for field in dataclasses.fields(kind)]


def other(value):
    """A value that is not the given one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    return [*value, "x"] if isinstance(value, list) else f"{value}x"


@pytest.mark.parametrize(("settings", "name"), FIELDS)
def test_a_marked_setting_changes_the_folder_and_no_other_does(settings, name):
    plain = settings()
    changed = dataclasses.replace(plain, **{name: other(getattr(plain, name))})

    def differs(changes):
        folders = {Key.of("kind", each, changes, {}).folder for each in (plain, changed)}
        return len(folders) == 2

    assert differs(SCORES) == (name in CHANGE_SCORES[settings])
    assert differs(ENCODINGS) == (settings is ImageSettings and name in CHANGE_LATENTS)


@pytest.mark.parametrize(("settings", "name"), MADE)
def test_a_setting_of_sampling_changes_the_folder_of_candidates_and_no_other_does(settings, name):
    plain = settings()
    changed = dataclasses.replace(plain, **{name: other(getattr(plain, name))})
    folders = {Key.of("kind", each, CANDIDATES, {}).folder for each in (plain, changed)}
    assert (len(folders) == 2) == (name in CHANGE_CANDIDATES[settings])


def test_kind_and_facts_change_the_folder():
    settings = ImageSettings()
    keys = [
        Key.of("latents", settings, SCORES, {"data": "a"}),
        Key.of("latents", settings, SCORES, {"data": "b"}),
        Key.of("reference", settings, SCORES, {"data": "a"}),
    ]
    assert len({key.folder for key in keys}) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_theta": 100.0, "rope_type": "default"}},
        {"num_attention_heads": 4, "num_key_value_heads": 4},
        {"rms_norm_eps": 1e-3},
    ],
)
def test_the_same_weights_in_another_configuration_are_another_language_model(tmp_path, change):
    model().save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    # More key heads of less width have the same weights where both come to the same product.
    if "num_attention_heads" in change:
        change = {**change, "head_dim": 32 // 4}
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | change))
    first, second = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in "ab")
    weights = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert network_digest(first) != network_digest(second)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "a")
    assert network_digest(first) == network_digest(again)


def test_configuration_buffers_and_precision_tell_image_networks_apart():
    torch.manual_seed(0)
    first = unet(xl=False)
    config = {**first.config, "attention_head_dim": 4}
    second = UNet2DConditionModel.from_config(config)
    second.load_state_dict(first.state_dict())
    assert network_digest(first) != network_digest(second)
    before = network_digest(first)
    first.register_buffer("shift", torch.zeros(1))
    with_buffer = network_digest(first)
    first.shift += 1
    assert len({before, with_buffer, network_digest(first)}) == 3
    assert network_digest(first.bfloat16()) != before


def test_a_number_without_dimensions_is_read():
    network = torch.nn.Linear(2, 2)
    network.scale = torch.nn.Parameter(torch.tensor(1.0))
    before = network_digest(network)
    with torch.no_grad():
        network.scale += 1
    assert network_digest(network) != before


def test_of_a_frozen_adapter_the_scale_counts_and_of_one_in_training_nothing():
    def network(alpha=2, dropout=0.0):
        made = model()
        bare = network_digest(made)
        made.add_adapter(LoraConfig(r=1, lora_alpha=alpha, lora_dropout=dropout))
        return made, bare

    trained, bare = network()
    assert network_digest(trained) == bare
    digests = []
    for changes in ({}, {"alpha": 4}, {"dropout": 0.1}):
        torch.manual_seed(1)
        frozen, _ = network(**changes)
        digests.append(network_digest(frozen.requires_grad_(False)))
    assert digests[0] != digests[1]
    assert digests[0] == digests[2]


@pytest.fixture
def tf32():
    """Puts the switch back."""
    before = torch.backends.cuda.matmul.allow_tf32
    yield torch.backends.cuda.matmul
    torch.backends.cuda.matmul.allow_tf32 = before


def test_the_kind_of_device_counts_and_its_number_does_not(tf32):
    assert arithmetic(torch.device("cpu")) == arithmetic(torch.device("cpu", 0)) == "cpu"
    gpu = torch.device("cuda", 1)
    assert arithmetic(gpu) == arithmetic(torch.device("cuda", 0))
    before = arithmetic(gpu)
    tf32.allow_tf32 = True
    assert arithmetic(gpu) != before
    assert arithmetic(torch.device("cpu")) == "cpu"


@pytest.fixture
def with_other_heads(tmp_path, models):
    """Copies of a pipeline whose weights are the same and whose heads are not."""
    for name in ("a", "b"):
        shutil.copytree(models(), tmp_path / name)
    path = tmp_path / "b" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_head_dim": 4}))
    return tmp_path / "a", tmp_path / "b"


def test_two_image_models_in_one_folder_do_not_read_each_others_scores(
    with_other_heads, pairs, tmp_path, capsys
):
    shared = {"precompute_dir": tmp_path / "cache", "reference_draws": 1, "max_train_steps": 2}
    for name, folder in zip("ab", with_other_heads, strict=True):
        train(*flags(folder, pairs, tmp_path / f"run-{name}", **shared))
        assert metrics(tmp_path / f"run-{name}")[0]["rewards/margins"] == 0
    assert "those stored differ in reference" in capsys.readouterr().out


def test_two_language_models_in_one_folder_do_not_read_each_others_scores(
    lm, data, tmp_path, capsys
):
    shutil.copytree(lm, tmp_path / "b")
    path = tmp_path / "b" / "config.json"
    config = json.loads(path.read_text())
    config["rope_parameters"] = {"rope_theta": 100.0, "rope_type": "default"}
    path.write_text(json.dumps(config))
    shared = {"precompute_dir": tmp_path / "cache", "precompute_ref_log_probs": True}
    for name, folder in (("a", lm), ("b", tmp_path / "b")):
        out = tmp_path / f"run-{name}"
        runs.train(*runs.flags(folder, data["pairs"], out, **shared, max_train_steps=1))
        assert runs.metrics(out)[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert "those stored differ in reference" in capsys.readouterr().out
