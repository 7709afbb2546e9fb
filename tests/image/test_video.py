"""Families of video, beyond what ``test_family_*`` ask of all."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DDPMScheduler,
)

from diffdpo.commands.train_diffusion_dpo import ImageObjects, prepare_images
from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, load_backbone
from diffdpo.image.process.noise import Diffusion
from diffdpo.image.process.processes import process_for
from diffdpo.image.reading.inputs import open_pipeline
from diffdpo.image.sampling.sample import PictureSettings, sample
from diffdpo.image.settings import ImageSettings
from tests.families import cogvideox, hunyuan_video, ltx, wan
from tests.families.work import Spied
from tests.image.test_clips import listed


def test_tokens_of_one_timestep_each_are_those_of_one_for_all(monkeypatch):
    """Wan 2.2 of 5B gives its network a timestep a token; training gives one a clip."""
    pipeline = wan.tiny(expand_timesteps=True)
    backbone = backbone_of(pipeline)
    seen = []
    forward = pipeline.transformer.forward

    def spied(*args, **options):
        seen.append((options, forward(*args, **options)[0]))
        return (seen[-1][1],)

    monkeypatch.setattr(pipeline.transformer, "forward", spied)
    pipeline(
        prompt=["a cat"], height=32, width=32, num_frames=5, num_inference_steps=2,
        guidance_scale=1.0, output_type="latent",
    )  # fmt: skip
    monkeypatch.undo()
    condition = backbone.encode_prompts(["a cat"])
    for options, output in seen:
        timestep = options["timestep"]
        assert timestep.shape == (1, 2 * 2 * 2)
        with torch.no_grad():
            ours = backbone.predict(
                backbone.network, options["hidden_states"], timestep[:, 0].float() / 1000, condition
            )
        assert torch.allclose(ours, output, atol=2e-5 * float(output.abs().max()))


def test_two_experts_are_refused():
    with pytest.raises(UserError, match=r"two transformers.*boundary_ratio"):
        backbone_of(wan.tiny(boundary_ratio=0.875))


def test_a_clip_begins_with_a_picture():
    """The first latent frame of a clip is that of its first frame alone."""
    backbone = backbone_of(wan.tiny())
    torch.manual_seed(0)
    clips = 2 * torch.rand(2, 3, 5, 32, 32) - 1
    mean, std = backbone.encode_images(clips, 1)
    backbone.num_frames = 5
    assert mean.shape == std.shape == (2, *backbone.latent_shape(32)) == (2, 16, 2, 4, 4)
    picture, _ = backbone.encode_images(clips[:, :, 0], 1)
    assert torch.allclose(picture, mean[:, :, :1], atol=1e-5)
    assert not torch.allclose(mean[:, :, 1], mean[:, :, 0], atol=1e-2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan")
    wan.tiny().save_pretrained(folder)
    return folder


def test_stored_clips_give_the_draws_of_live_ones(folder, tmp_path):
    batches = []
    for stored in (False, True):
        settings = ImageSettings(
            pretrained_model_name_or_path=str(folder), resolution=32, rank=2,
            output_dir=str(tmp_path / "run"), precompute_dir=str(tmp_path / "tables"),
            cache_latents=stored, report_to="none", dataset_name="clips",
        )  # fmt: skip
        run = prepare_images(settings, Accelerator(cpu=True), ImageObjects(listed()))
        assert (run.settings.num_frames, run.backbone.num_frames) == (5, 5)
        assert bool(run.backbone.encoders()) != stored
        items = [run.rows.read(n, n % 2) for n in range(3)]
        draw = run.task.draw(run.task.collate(items))
        assert draw.noisy.shape == (6, 16, 2, 4, 4)
        with torch.no_grad():
            batches.append((draw.noisy, draw.target, run.task.score(run.network, draw).score_N))
    for live, read in zip(*batches, strict=True):
        assert torch.equal(live, read)


def test_the_middle_frame_of_a_clip_is_shown(folder, monkeypatch):
    backbone = load_backbone(str(folder))
    decoded = []
    decode = backbone.vae.decode
    monkeypatch.setattr(
        backbone.vae, "decode", lambda *a, **k: decoded.append(decode(*a, **k)) or decoded[-1]
    )
    sampling = PictureSettings(2, 1.0, resolution=32)
    for frames in (1, 5):
        backbone.num_frames = frames
        (shown,) = sample(backbone, backbone.network, ["a cat"], [0], sampling)
        clip = decoded[-1][0][0]
        assert clip.shape == (3, frames, 32, 32)
        expected = ((clip[:, frames // 2] / 2 + 0.5) * 255).round().permute(1, 2, 0)
        assert torch.equal(torch.from_numpy(np.array(shown)).float(), expected)


@pytest.mark.parametrize(
    ("frames", "line"), [(6, r"--num_frames 6 is not a multiple of 4 plus 1; take 5")]
)
def test_the_length_of_clips_is_one_that_the_model_has(folder, frames, line):
    settings = ImageSettings(
        pretrained_model_name_or_path=str(folder), dataset_name="x", num_frames=frames
    )
    with pytest.raises(UserError, match=line):
        open_pipeline(settings, encoders=False)


def test_rotated_positions_are_those_of_the_pipeline(monkeypatch):
    backbone = backbone_of(cogvideox.tiny(rotary=True))
    backbone.num_frames = 5
    spied = Spied(backbone, "CogVideoXPipeline", monkeypatch)
    condition = backbone.encode_prompts(["a cat"])
    for output, timestep, noisy in spied.steps:
        with torch.no_grad():
            ours = backbone.predict(
                backbone.network, noisy.transpose(1, 2), timestep.reshape(1), condition
            )
        assert torch.allclose(ours.transpose(1, 2), output, atol=1e-5)


@pytest.mark.parametrize("kind", [CogVideoXDDIMScheduler, CogVideoXDPMScheduler])
def test_a_schedule_with_shifted_signal_keeps_its_shift(kind):
    """ᾱ / (s + (1 − s) ᾱ) of the plain schedule, s = 3 (Esser et al. 2024, eq. 23, in ᾱ)."""
    ours = Diffusion(kind(prediction_type="v_prediction", snr_shift_scale=3.0))
    plain = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alpha = plain.alphas_cumprod.double()
    expected = alpha / (3 - 2 * alpha)
    assert torch.allclose(ours.scheduler.alphas_cumprod.double(), expected, rtol=1e-4)
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 2, 4, 2, 4, 4)
    timestep = torch.tensor([100, 900])
    a = expected[timestep].view(-1, 1, 1, 1, 1)
    noisy, target = (f(clean, noise, timestep) for f in (ours.corrupt, ours.target))
    assert torch.allclose(noisy.double(), a.sqrt() * clean + (1 - a).sqrt() * noise, atol=1e-4)
    assert torch.allclose(target.double(), a.sqrt() * noise - (1 - a).sqrt() * clean, atol=1e-4)
    assert "snr_shift_scale" in ours.facts()


def test_a_shift_of_another_scheduler_is_refused():
    with pytest.raises(UserError, match="snr_shift_scale"):
        Diffusion(DDIMScheduler.from_config({"snr_shift_scale": 3.0, "num_train_timesteps": 1000}))


def changed(network, **entries):
    """A network of another configuration."""
    config = {name: one for name, one in network.config.items() if not name.startswith("_")}
    return type(network).from_config({**config, **entries})


@pytest.mark.parametrize(
    ("change", "line"),
    [({"patch_size_t": 2}, r"CogVideoX 1\.5"), ({"ofs_embed_dim": 8}, "begins from a picture")],
)
def test_other_networks_of_cogvideox_are_refused(change, line):
    pipeline = cogvideox.tiny()
    pipeline.transformer = changed(pipeline.transformer, **change)
    with pytest.raises(UserError, match=line):
        backbone_of(pipeline)


def test_positions_of_ltx_are_counted_in_its_own_pixels_and_frames():
    pipeline = ltx.tiny()
    pipeline.vae = changed(pipeline.vae, patch_size=2)
    with pytest.raises(UserError, match=r"16 pixels and 8 frames are not.*32 and 8"):
        backbone_of(pipeline)


def test_the_guidance_of_hunyuan_video_reaches_its_network():
    backbone = backbone_of(hunyuan_video.tiny())
    seen = []
    hook = backbone.network.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["guidance"]), with_kwargs=True
    )
    options = {"height": 32, "width": 32, "num_inference_steps": 1, "output_type": "latent"}
    for guidance in (1.0, 6.0):
        backbone.pipeline(prompt=["a cat"], **options, **backbone.sampling_options(guidance))
    condition = backbone.encode_prompts(["a cat"])
    noisy = torch.zeros(1, *backbone.latent_shape(32))
    backbone.predict(backbone.network, noisy, torch.tensor([0.5]), condition)
    hook.remove()
    assert [float(one) for one in seen] == [1000.0, 6000.0, 1000.0]


def test_the_shift_of_ltx_counts_the_tokens_of_the_clip():
    backbone = backbone_of(ltx.tiny())
    shifts = []
    for frames in (1, 161):
        backbone.num_frames = frames
        assert backbone.tokens(512) == 256 * (1 + (frames - 1) // 8)
        shifts.append(process_for(backbone, ImageSettings(resolution=512)).shift)
    # mu is linear in the tokens: 0.95 at 256 and 2.05 at 4096 by this scheduler's defaults.
    slope = (2.05 - 0.95) / (4096 - 256)
    assert np.log(shifts) == pytest.approx([0.95, 0.95 + slope * (21 * 256 - 256)], abs=1e-5)
