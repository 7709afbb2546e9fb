"""Every recipe is read as it stands, has the units that its comments say, and runs two steps on a
small pipeline of the family of its model."""

import math
import re

import pytest
from safetensors.torch import load_file

from diffdpo.cli import run_command
from diffdpo.commands.rounds_settings import RoundsSettings
from diffdpo.config import parse, read_yaml
from diffdpo.image.backbones import family_of
from diffdpo.image.pair_settings import PairSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.text.settings import TextSettings
from tests.conftest import ROOT, accelerate, run
from tests.factory import read_jsonl
from tests.families import factory, side

FOLDER = ROOT / "scripts" / "recipes"
# The family of the model that each recipe for images trains: of those that were run at full size
# here or by others, and of published flow models.
TRIED = {
    "colourfulness": "StableDiffusionPipeline",
    "emoji": "StableDiffusionPipeline",
    "emoji_flow": "StableDiffusion3Pipeline",
    "sd15_pickapic": "StableDiffusionPipeline",
    "sdxl_lora": "StableDiffusionXLPipeline",
    "sdxl_pickapic": "StableDiffusionXLPipeline",
}
FLOW = {
    "sd35_medium": "StableDiffusion3Pipeline",
    "flux_dev": "FluxPipeline",
    "z_image": "ZImagePipeline",
    "qwen_image": "QwenImagePipeline",
    "wan": "WanPipeline",
}
FAMILIES = {**TRIED, **FLOW}
UNITS = r"(\d+) on the mean = (\S+) on the sum = (\S+) nats at t = 1/2, of ([\d x]+) latents"


def path_of(name):
    return FOLDER / f"{name}.yaml"


def test_every_recipe_is_in_a_table():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*FAMILIES, "reviews", "rounds_emoji"}


def test_the_plan_of_rounds_is_read_as_it_stands():
    plan, _ = parse(RoundsSettings, ["--config", str(path_of("rounds_emoji"))])
    assert plan.rounds == 2
    for section, cls in (("train", ImageSettings), ("make_pairs", PairSettings)):
        assert plan.section(section).keys() <= cls.__dataclass_fields__.keys()


@pytest.mark.parametrize("name", [*FAMILIES, "reviews"])
def test_a_recipe_is_read_as_it_stands(name):
    given = read_yaml(str(path_of(name)))
    kind = TextSettings if name == "reviews" else ImageSettings
    settings, notices = parse(kind, ["--config", str(path_of(name))])
    used = {key: getattr(settings, key) for key in given}
    # The reader of YAML leaves a number as text where settings take either.
    assert used == {key: type(used[key])(value) for key, value in given.items()}
    assert not notices


@pytest.mark.parametrize("name", FLOW)
def test_the_comments_have_the_units_of_beta(name):
    text = path_of(name).read_text()
    settings, _ = parse(ImageSettings, ["--config", str(path_of(name))])
    found = re.findall(UNITS, text)
    assert found
    for mean, total, nats, sides in found:
        shape = [int(number) for number in sides.split(" x ")]
        cells = math.prod(shape)
        assert float(mean) == settings.beta_dpo
        assert total == f"{settings.beta_dpo / cells:.3g}"
        assert nats == f"{settings.beta_dpo / (2 * cells):.3g}"
        # Sixteen channels at an eighth of the picture, in each of these families.
        cells_a_side = settings.resolution // 8
        assert (shape[0], *shape[-2:]) == (16, cells_a_side, cells_a_side)


@pytest.mark.parametrize("name", FLOW)
def test_no_empty_prompt_where_guidance_is_distilled(name):
    share = read_yaml(str(path_of(name)))["proportion_empty_prompts"]
    assert (share == 0) == (name == "flux_dev")


def words_of(name, pairs, folder):
    """The flags with which a recipe runs two steps on a small pipeline."""
    family, model = FAMILIES[name], folder / "model"
    factory(family).tiny().save_pretrained(model)
    small = {
        "pretrained_model_name_or_path": model,
        "dataset_name": pairs,
        "output_dir": folder / "run",
        "precompute_dir": folder / "tables",
        "resolution": side(family),
        "max_train_samples": 4,
        "train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_train_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
    }
    if "pretrained_vae_model_name_or_path" in read_yaml(str(path_of(name))):
        small["pretrained_vae_model_name_or_path"] = model
    flags = [word for flag, value in small.items() for word in (f"--{flag}", str(value))]
    return ["--config", str(path_of(name)), *flags]


def check_run(name, folder):
    """Two steps from an exact start, with the recipe's settings, and a result with weights."""
    rows = read_jsonl(folder / "metrics.jsonl")
    assert len(rows) == 2
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    given, used = read_yaml(str(path_of(name))), read_yaml(str(folder / "config.yaml"))
    kept = {"beta_dpo", "rank", "proportion_empty_prompts", "weighting_scheme", "timestep_shift"}
    kept &= given.keys()
    assert {key: used[key] for key in kept} == {key: given[key] for key in kept}
    if "rank" in given:
        weights = load_file(folder / "pytorch_lora_weights.safetensors")
        assert any(bool(weight.any()) for name, weight in weights.items() if up_weight(name))
    else:
        assert (folder / "model_index.json").exists()


def up_weight(name):
    """Whether a weight of a LoRA file is one of those that are zero before training."""
    return name.endswith(("lora.up.weight", "lora_B.weight"))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_runs_two_steps_on_a_small_model(name, pairs, tmp_path):
    words = words_of(name, pairs, tmp_path)
    assert run_command("train_diffusion_dpo", words) == 0
    check_run(name, tmp_path / "run")


@pytest.mark.slow  # another run of the tests above, under the launcher
@pytest.mark.parametrize("name", FLOW)
def test_a_flow_recipe_is_launched_for_two_steps(name, pairs, tmp_path):
    assert family_of(FLOW[name]).is_flow
    words = words_of(name, pairs, tmp_path)
    done = run(accelerate("train_diffusion_dpo", *words))
    assert done.returncode == 0, done.stderr[-2000:]
    check_run(name, tmp_path / "run")
