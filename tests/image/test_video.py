"""Families of video, beyond what ``test_families`` asks of all."""

import pytest
import torch

from diffdpo.errors import UserError
from diffdpo.image.backbones import backbone_of
from tests.families import wan


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
