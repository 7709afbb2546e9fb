"""What a pipeline may hold, and that training uses it as sampling does."""

import json
import shutil

import pytest
import torch
from datasets import Dataset
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPImageProcessor

from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, family_of, load_backbone, load_encoders
from diffdpo.image.export import export
from diffdpo.image.settings import ImageSettings
from tests.commands.test_train_diffusion_dpo import flags, train
from tests.factory import FAMILIES, changed, pickapic_rows, scheduler, unet

SD, SDXL = FAMILIES
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


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


def refused(folder, line, **options):
    with pytest.raises(UserError, match=line) as caught:
        load_backbone(str(folder), **options)
    assert len(str(caught.value)) < 600


STATISTICS = {"latents_mean": [-1.6, 1.1, 2.5, -0.9], "latents_std": [8.4, 5.9, 6.5, 4.0]}


@pytest.mark.parametrize(("family", "entries"), [(SD, {}), (SDXL, {}), (SDXL, STATISTICS)])
def test_normalising_is_undone_by_the_pipeline_before_it_decodes(
    family, entries, models, tmp_path, monkeypatch
):
    folder = changed(models(family), tmp_path / "model", "vae/config.json", **entries)
    backbone = load_backbone(str(folder))
    pipeline = backbone.pipeline
    seen, decode = [], AutoencoderKL.decode
    monkeypatch.setattr(
        AutoencoderKL, "decode", lambda self, z, **rest: seen.append(z) or decode(self, z, **rest)
    )
    pipeline.set_progress_bar_config(disable=True)

    def run(kind):
        noise = torch.randn(1, 4, 16, 16, generator=torch.manual_seed(0))
        return pipeline("a", latents=noise, num_inference_steps=2, output_type=kind).images

    in_the_networks_scale = run("latent")
    run("pt")
    assert torch.allclose(backbone.normalise(seen[0]), in_the_networks_scale, atol=1e-4)


@pytest.mark.parametrize(
    ("family", "entries", "line"),
    [
        (SD, STATISTICS, "latents_mean and latents_std would be ignored"),
        (SD, {"shift_factor": 0.1}, "shift_factor would be ignored"),
        (SDXL, {"shift_factor": 0.1}, "shift_factor would be ignored"),
        (SDXL, {"latents_mean": [0.0] * 4}, "latents_mean would be ignored"),
        (
            SDXL,
            {**STATISTICS, "latents_std": [1.0, 0.0, 1.0, 1.0]},
            "latents_std must be 4 numbers",
        ),
        (SDXL, {**STATISTICS, "latents_mean": [1.0]}, "latents_mean must be 4 numbers"),
        (SD, {"scaling_factor": "0.18"}, "scaling_factor must be positive"),
        (SD, {"scaling_factor": 0}, "scaling_factor must be positive"),
        (SD, {"scaling_factor": float("nan")}, "scaling_factor"),
        (SD, {"latents_bias": [1.0]}, "nothing is known of latents_bias"),
    ],
)
def test_statistics_that_the_pipeline_does_not_undo_are_refused(
    family, entries, line, models, tmp_path
):
    refused(changed(models(family), tmp_path / "m", "vae/config.json", **entries), line)


@pytest.mark.parametrize("encoders", [True, False])
@pytest.mark.parametrize(
    ("channels", "line"),
    [
        ({"in_channels": 9}, "the UNet takes 9 channels, the autoencoder gives 4"),
        ({"out_channels": 8}, "the UNet gives 8 channels, the autoencoder takes 4"),
    ],
)
def test_channels_are_checked_before_weights_are_read(channels, line, encoders, models, tmp_path):
    folder = changed(models(), tmp_path / "m", "unet/config.json", **channels)
    (folder / UNET_FILE).unlink()
    refused(folder, line, encoders=encoders)


@pytest.mark.parametrize(
    ("family", "entries", "line"),
    [
        (SD, {"cross_attention_dim": 768}, "cross_attention_dim is 768, the text encoders give 32"),
        (SD, {"time_cond_proj_dim": 32}, "guidance scale as a condition"),
        (SD, {"sample_size": "large"}, "sample_size large is no side"),
        (SD, {"block_out_channels": [-64, 64]}, "block_out_channels -64"),
        (SD, {"block_out_channels": [10**9, 10**9]}, "block_out_channels 1000000000"),
        (SD, {"layers_per_block": 10**6}, "layers_per_block 1000000"),
        (SD, {"attention_head_dim": 0}, "config.json: cannot be loaded"),
        (SD, {"num_class_embeds": 10}, "does not take what autoencoder"),
        (SD, {"_class_name": "UNet3DConditionModel"}, "UNet3DConditionModel is not supported"),
        (SD, {"guidance_rescue": 2}, "nothing is known of guidance_rescue"),
        # of the refiner, which has one number less
        (SDXL, {"projection_class_embeddings_input_dim": 72}, "does not take what autoencoder"),
    ],
)
def test_a_unet_that_does_not_fit_is_refused(family, entries, line, models, tmp_path):
    refused(changed(models(family), tmp_path / "m", "unet/config.json", **entries), line)


@pytest.mark.parametrize(
    "entries", [{"decay": 0.999, "optimization_step": 7}, {"upcast_attention": None}]
)
def test_entries_that_compute_nothing_are_free(entries, models, tmp_path):
    load_backbone(str(changed(models(), tmp_path / "m", "unet/config.json", **entries)))


def test_the_networks_own_side_may_be_a_pair(models, tmp_path):
    square, wide = (
        load_backbone(
            str(changed(models(), tmp_path / f"m{w}", "unet/config.json", sample_size=[16, w]))
        )
        for w in (16, 24)
    )
    assert square.native_resolution == 32
    with pytest.raises(UserError, match=r"\[16, 24\] latent cells, no square; say --resolution"):
        _ = wide.native_resolution


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_without_a_length_gets_the_text_encoders(family, models, tmp_path):
    folder = changed(
        models(family), tmp_path / "m", "tokenizer/tokenizer_config.json", model_max_length=None
    )
    backbone, whole = load_backbone(str(folder)), load_backbone(str(models(family)))
    assert backbone.longest_prompt == 16
    prompts = ["a", "a prompt that is longer than sixteen tokens"]
    for name, value in whole.encode_prompts(prompts).items():
        assert torch.equal(backbone.encode_prompts(prompts)[name], value)


@pytest.mark.parametrize(
    ("file", "entries", "line"),
    [
        (
            "tokenizer/tokenizer_config.json",
            {"model_max_length": 77},
            "tokenizer: model_max_length",
        ),
        ("text_encoder/config.json", {"vocab_size": 300}, "has 514 tokens, and its text encoder"),
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("text_encoder/config.json", {"hidden_size": "wide"}, "text_encoder: "),
        ("text_encoder/config.json", {"hidden_act": "none-such"}, "text_encoder: cannot be loaded"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**10}, "between 2 and"),
        ("scheduler/scheduler_config.json", {"beta_end": float("nan")}, "no noise schedule"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "cubic"}, "scheduler: cannot be"),
        (
            "model_index.json",
            {"scheduler": ["diffusers", "EDMEulerScheduler"]},
            "EDMEulerScheduler",
        ),
        ("model_index.json", {"scheduler": ["os", "system"]}, "scheduler system is not supported"),
        ("model_index.json", {"text_encoder": ["os", "system"]}, "os.system is not known"),
        ("model_index.json", {"unet": None}, "names no unet"),
        ("model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny is not"),
        ("model_index.json", {"_class_name": ["StableDiffusionPipeline"]}, "no pipeline class"),
    ],
)
def test_configurations_that_cannot_be_used_are_one_line(file, entries, line, models, tmp_path):
    refused(changed(models(), tmp_path / "m", file, **entries), line)


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


def test_another_autoencoder_is_checked_as_well(models, tmp_path):
    folder = changed(models(), tmp_path / "m", "vae/config.json", scaling_factor=-1)
    refused(models(), "vae.*scaling_factor", vae=str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_in_memory_meets_the_same_checks(family, models):
    def pipeline(**parts):
        held = load_backbone(str(models(family))).pipeline
        for name, part in parts.items():
            setattr(held, name, part)
        return held

    broken = unet(xl=family == SDXL)
    broken.conv_in.weight.data[0] = float("nan")
    wide = UNet2DConditionModel.from_config(broken.config, in_channels=9)
    flow = EulerDiscreteScheduler.from_config(scheduler("epsilon").config, prediction_type="sample")
    assert backbone_of(pipeline()).native_resolution == 32
    for parts, line in (
        ({"unet": broken}, "unet: NaN or infinite weights"),
        ({"unet": wide}, "takes 9 channels"),
        ({"scheduler": flow}, "prediction type 'sample'"),
        ({"text_encoder": None}, "no text_encoder"),
    ):
        with pytest.raises(UserError, match=line):
            backbone_of(pipeline(**parts))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_of_two_vectors_is_encoded_as_in_sampling(family, models, tmp_path):
    pipeline = load_backbone(str(models(family))).pipeline
    torch.manual_seed(5)
    encoders = [("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2")]
    for tokenizer, encoder in encoders[: 1 + (family == SDXL)]:
        pipeline.load_textual_inversion(
            {"<blob>": torch.randn(2, 32)},
            token="<blob>",
            tokenizer=getattr(pipeline, tokenizer),
            text_encoder=getattr(pipeline, encoder),
        )
    pipeline.save_pretrained(tmp_path / "model")
    backbone = load_backbone(str(tmp_path / "model"))
    actual = backbone.encode_prompts(["a <blob>"])
    fresh = family_of(family).pipeline_class.from_pretrained(tmp_path / "model")
    tokens = fresh.encode_prompt("a <blob>", device="cpu", num_images_per_prompt=1,
                                 do_classifier_free_guidance=False)[0]  # fmt: skip
    assert torch.equal(actual["tokens_NLD"], tokens)
    # Both vectors take part: the first one alone gives something else.
    with torch.no_grad():
        ids = backbone.pipeline.tokenizer("a <blob>", padding="max_length", return_tensors="pt")
        first = backbone.pipeline.text_encoder(ids.input_ids, output_hidden_states=True)
    alone = first.hidden_states[-2] if family == SDXL else first[0]
    assert not torch.allclose(tokens[..., :32], alone, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_are_cut_are_counted(family, models):
    backbone = load_backbone(str(models(family)))  # 16 tokens, one a letter, with begin and end
    assert backbone.longest_prompt == 16
    assert backbone.cut_prompts(["a" * 14, "b" * 15, "", "c" * 99]) == 2
    assert backbone.cut_prompts([]) == 0


def test_text_encoders_that_give_no_vector_for_every_token_are_refused(models, tmp_path):
    """Of an encoder with a projection the first output is one vector a prompt."""
    kind = ["transformers", "CLIPTextModelWithProjection"]
    pipeline = load_backbone(str(models(SDXL))).pipeline
    folder = changed(models(), tmp_path / "projected", "model_index.json", text_encoder=kind)
    pipeline.text_encoder_2.save_pretrained(folder / "text_encoder")
    refused(folder, "text encoders: ")
    kind = ["transformers", "CLIPTextModel"]
    folder = changed(models(SDXL), tmp_path / "bare", "model_index.json", text_encoder_2=kind)
    pipeline.text_encoder.save_pretrained(folder / "text_encoder_2")
    refused(folder, "text encoders: ")


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


def test_the_first_lines_of_a_run_count_the_prompts_that_are_cut(models, tmp_path, capsys):
    rows = [
        row | {"caption": "a" * (10 + index // 2)} for index, row in enumerate(pickapic_rows(16))
    ]
    (tmp_path / "pairs").mkdir()
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs" / "train.parquet")
    train(*flags(models(), tmp_path / "pairs", tmp_path / "run", rank=2, max_train_steps=1))
    said = " ".join(capsys.readouterr().out.split())
    # Eight prompts of 10 to 17 letters, one token each; begin and end are two more.
    assert "3 of 8 prompts are longer than 16 tokens and are cut" in said


def test_index_of_another_shape(copy):
    folder = copy()
    for content in ([], "text", 3):
        (folder / "model_index.json").write_text(json.dumps(content))
        refused(folder, r"model_index\.json")
