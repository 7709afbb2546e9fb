"""What a pipeline may hold, and that training uses it as sampling does."""

import pytest
import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, load_backbone
from tests.factory import FAMILIES, changed, scheduler, unet
from tests.families.work import fresh
from tests.image.doors import SD, SDXL, UNET_FILE, refused

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


def test_another_autoencoder_is_checked_as_well(models, tmp_path):
    folder = changed(models(), tmp_path / "m", "vae/config.json", scaling_factor=-1)
    refused(models(), "vae.*scaling_factor", vae=str(folder))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_in_memory_meets_the_same_checks(family, models):
    def pipeline(**parts):
        held = fresh(models(family)).pipeline
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
