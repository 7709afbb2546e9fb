"""Families of video, beyond what ``test_families`` asks of all."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from diffdpo.commands.train_diffusion_dpo import ImageObjects, prepare_images
from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of, load_backbone
from diffdpo.image.inputs import open_pipeline
from diffdpo.image.sample import PictureSettings, sample
from diffdpo.image.settings import ImageSettings
from tests.families import wan
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
