"""The files of a model at the door: weights, variants, what is pickled or missing."""

import json
import shutil

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from diffdpo.image.backbones import family_of, load_backbone, load_encoders
from diffdpo.image.model.export import export
from diffdpo.image.settings import ImageSettings
from tests.image.doors import SD, UNET_FILE, refused


@pytest.fixture
def copy(models, tmp_path):
    """``copy(family)``: the folder of a pipeline that may be spoilt."""

    def make(family=SD):
        shutil.copytree(models(family), tmp_path / "copy")
        return tmp_path / "copy"

    return make


def rewrite(file, change):
    """Save a safetensors file again after ``change(weights)``."""
    weights = load_file(file)
    change(weights)
    save_file(weights, file, {"format": "pt"})


PARTS = {
    "unet": UNET_FILE,
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.mark.parametrize("part", PARTS)
def test_every_weight_has_a_place_and_every_place_a_weight(part, copy):
    folder = copy()
    file = folder / PARTS[part]
    whole = file.read_bytes()
    name = max(load_file(file))  # any

    for change, line in (
        (lambda weights: weights.pop(name), "its files lack weights"),
        (lambda weights: weights.update(left_over=torch.ones(1)), "that have no place"),
        (lambda weights: weights.update({name: torch.ones(1)}), "another shape|cannot be loaded"),
        (lambda weights: weights[name].fill_(float("nan")), "NaN or infinite weights"),
        (lambda weights: weights[name].view(-1)[-1:].fill_(float("inf")), "NaN or infinite"),
    ):
        rewrite(file, change)
        refused(folder, f"model .*: {part}: .*({line})")
        file.write_bytes(whole)
    load_backbone(str(folder))


def test_constants_of_older_versions_are_harmless(copy):
    folder = copy()
    ids = {"text_model.embeddings.position_ids": torch.arange(16)[None]}
    rewrite(folder / PARTS["text_encoder"], lambda weights: weights.update(ids))
    load_backbone(str(folder))


def test_a_folder_of_one_variant_names_it(models, tmp_path):
    pipeline = load_backbone(str(models())).pipeline
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16")
    refused(tmp_path / "half", "holds variant fp16 alone; add --variant fp16")
    assert load_backbone(str(tmp_path / "half"), variant="fp16").network.dtype == torch.float32
    refused(models(), "holds no variant bf16; leave out --variant", variant="bf16")


def test_pickled_weights_are_refused_with_the_line_that_converts_them(copy):
    folder = copy()
    for part in PARTS.values():
        weights = load_file(folder / part)
        (folder / part).unlink()
        torch.save(weights, (folder / part).with_suffix(".bin"))
    refused(folder, r"pickled weights .*DiffusionPipeline.from_pretrained\(.*save_pretrained")


@pytest.mark.parametrize(
    ("keys", "pipeline"),
    [
        (
            ["model.diffusion_model.x", "cond_stage_model.y"],
            r"StableDiffusionPipeline\.from_single",
        ),
        (["model.diffusion_model.x", "conditioner.y"], r"StableDiffusionXLPipeline\.from_single"),
        (["unet.down.lora_A.weight"], "a LoRA file; .*fuse it into its model first"),
    ],
)
def test_a_single_file_gets_the_line_that_converts_it(keys, pipeline, tmp_path, monkeypatch):
    file = tmp_path / "single.safetensors"
    save_file({key: torch.ones(1) for key in keys}, file)
    refused(file, pipeline)
    monkeypatch.chdir(tmp_path)
    refused("single.safetensors", pipeline)
    refused(tmp_path, pipeline)


def test_a_lora_is_no_model(tmp_path):
    save_file(
        {"unet.a.lora_A.weight": torch.ones(1)}, tmp_path / "pytorch_lora_weights.safetensors"
    )
    refused(tmp_path, "a LoRA; a LoRA is no model; name its model and train on with --init_lora")


@pytest.mark.parametrize("missing", ["tokenizer", "scheduler", "text_encoder", "unet", "vae"])
def test_a_part_that_is_missing_is_named(missing, copy):
    folder = copy()
    shutil.rmtree(folder / missing)
    refused(folder, missing)


def test_a_safety_checker_is_saved_with_a_full_result_and_may_not_be_pickled(models, tmp_path):
    """It is not needed before the export, which is no time to fail."""
    config = {
        "vision_config": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
                          "num_attention_heads": 2, "image_size": 8, "patch_size": 4},
        "projection_dim": 8,
    }  # fmt: skip
    pipeline = family_of(SD).pipeline_class.from_pretrained(models())
    checker = StableDiffusionSafetyChecker(CLIPConfig(**config))
    pipeline.register_modules(safety_checker=checker, feature_extractor=CLIPImageProcessor())
    pipeline.save_pretrained(tmp_path / "model")
    backbone = load_backbone(str(tmp_path / "model"))
    assert backbone.pipeline.safety_checker is None
    settings = ImageSettings(
        pretrained_model_name_or_path=str(tmp_path / "model"), output_dir=str(tmp_path / "run")
    )
    (tmp_path / "run").mkdir()
    export(backbone, backbone.network, settings, {})
    weights = tmp_path / "run" / "safety_checker" / "model.safetensors"
    assert load_file(weights).keys()
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    refused(tmp_path / "run", "safety_checker: holds pickled weights")


def test_a_model_of_the_hub_meets_the_same_checks(models, tmp_path):
    """From its folder of downloads, as where there is no network."""
    held = tmp_path / "models--some--tiny"
    shutil.copytree(models(), held / "snapshots" / ("a" * 40))
    (held / "refs").mkdir()
    (held / "refs" / "main").write_text("a" * 40)
    hub = {"revision": None, "variant": None, "cache_dir": str(tmp_path)}
    assert load_backbone("some/tiny", **hub).native_resolution == 32
    bare = load_backbone("some/tiny", encoders=False, **hub)
    load_encoders(bare)
    assert torch.equal(
        bare.encode_prompts(["a"])["tokens_NLD"],
        load_backbone(str(models())).encode_prompts(["a"])["tokens_NLD"],
    )
    rewrite(held / "snapshots" / ("a" * 40) / UNET_FILE, lambda weights: weights.popitem())
    for options in ({"encoders": True}, {"encoders": False}):
        refused("some/tiny", "unet: its files lack weights", **options, **hub)
    refused("some/none", "no pipeline with a model_index.json", **hub)


def test_index_of_another_shape(copy):
    folder = copy()
    for content in ([], "text", 3):
        (folder / "model_index.json").write_text(json.dumps(content))
        refused(folder, r"model_index\.json")
