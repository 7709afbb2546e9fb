"""What holds for every family of the table: it predicts what its pipeline does."""

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffdpo.image.backbones import load_backbone
from diffdpo.image.backbones.conditions import MASK, joined, rows_of
from diffdpo.image.process.processes import process_for
from diffdpo.image.sampling.sample import PictureSettings, sample
from tests.families import factory, side
from tests.families.work import (
    CPU,
    PROMPTS,
    Spied,
    images,
    inputs,
    latents_of,
    settings_of,
)


@pytest.fixture(scope="module", params=["picture", "clip"])
def of_a_length(request, frozen, family):
    """The backbone, for pictures or for clips of two latent frames, and a run of its pipeline."""
    backbone = copy.copy(frozen)
    if request.param == "clip":
        if backbone.frame_factor is None:
            pytest.skip("it makes pictures alone")
        backbone.num_frames = 1 + backbone.frame_factor
    with pytest.MonkeyPatch.context() as patch:
        return backbone, Spied(backbone, family, patch)


def test_predicts_what_the_pipeline_gives_to_its_scheduler(of_a_length, family):
    backbone, spied = of_a_length
    assert len(spied.steps) >= 4
    condition = backbone.encode_prompts(["a cat"])
    original = getattr(factory(family), "ORIGINAL", side(family))
    condition |= backbone.size_condition(images(1, side(family), original), side(family))
    for output, timestep, sampled in spied.steps:
        t = torch.as_tensor(timestep).reshape(1)
        t = t.float() / 1000 if backbone.is_flow else t.long()
        noisy = latents_of(family, sampled, backbone).float()
        with torch.no_grad():
            ours = backbone.predict(backbone.network, noisy, t, condition)
        assert ours.shape == noisy.shape
        theirs = latents_of(family, output, backbone)
        assert torch.allclose(ours, theirs, atol=2e-4 * float(theirs.abs().max()))


def test_guidance_leads_away_from_the_empty_prompt(frozen, family, monkeypatch):
    backbone = frozen
    if backbone.part == "unet" or getattr(factory(family), "EMBEDS_GUIDANCE", False):
        pytest.skip("its guidance is an input of the network, or the empty prompt is as in scripts")
    prompts, scale = PROMPTS[: backbone.prompts_at_once or 2], backbone.guidance_off + 3
    spied = Spied(backbone, family, monkeypatch, prompts, scale)
    output, timestep, sampled = spied.steps[0]
    noisy = latents_of(family, sampled, backbone).float()
    t = torch.as_tensor(timestep).expand(len(prompts))
    t = t / 1000 if backbone.is_flow else t.long()
    with torch.no_grad():
        original = getattr(factory(family), "ORIGINAL", side(family))
        pictures = images(len(prompts), side(family), original)
        sizes = backbone.size_condition(pictures, side(family))
        given, empty = (
            backbone.predict(
                backbone.network, noisy, t, {**backbone.encode_prompts(texts), **sizes}
            )
            for texts in (prompts, [""] * len(prompts))
        )
    led = given + (scale - backbone.guidance_off) * (given - empty)
    led = getattr(factory(family), "rescaled", lambda led, given: led)(led, given)
    theirs = latents_of(family, output, backbone)
    assert torch.allclose(led, theirs, atol=5e-4 * float(theirs.abs().max()))
    assert not torch.allclose(given, theirs, atol=1e-2 * float(theirs.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_picture_depends_on_its_prompt_and_seed_alone(frozen, folder, family, dtype):
    whole = dtype == torch.float32
    backbone = frozen if whole else load_backbone(str(folder), dtype=dtype)
    backbone.move_encoders(CPU, dtype)
    settings = PictureSettings(2, backbone.guidance_off + 2, 2, side(family))
    call = functools.partial(sample, backbone, backbone.network.float())
    together = call(PROMPTS[:2], [1, 2], settings)
    assert [picture.size for picture in together] == 2 * [(side(family), side(family))]
    if whole:
        (alone,) = call(PROMPTS[1:2], [2], settings)
        apart = np.asarray(alone, np.int16) - np.asarray(together[1])
        assert np.abs(apart).max() <= 2
        assert np.abs(np.asarray(alone, np.int16) - np.asarray(together[0])).max() > 2


def test_latents_have_the_scale_that_the_pipeline_undoes(of_a_length, family, monkeypatch):
    backbone, spied = of_a_length
    # An encoder that returns what the pipeline decoded must lead back to the pipeline's latents.
    returned = SimpleNamespace(mean=spied.decoded, std=torch.zeros_like(spied.decoded))
    encoded = SimpleNamespace(latent_dist=returned, latent=spied.decoded)
    encode = getattr(factory(family), "encoded", lambda encoded: encoded)
    monkeypatch.setattr(backbone.vae, "encode", lambda pixels, **options: encode(encoded))
    pixels = torch.zeros(1, 3, side(family), side(family))
    mean, std = backbone.encode_images(pixels, 8)
    expected = latents_of(family, spied.latents, backbone)
    assert torch.allclose(backbone.normalise(mean), expected.float(), atol=1e-4)
    assert not std.any()


def test_an_euler_step_of_the_target_lands_on_the_path(frozen, family, folder):
    if not frozen.is_flow:
        pytest.skip("its sampler makes no straight steps")
    process = process_for(frozen, settings_of(folder, family))
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 1, *frozen.latent_shape(side(family)))
    scheduler = type(frozen.pipeline.scheduler).from_config(
        frozen.pipeline.scheduler.config, use_dynamic_shifting=False
    )
    scheduler.set_timesteps(4)
    for index, timestep in enumerate(scheduler.timesteps):
        here, there = scheduler.sigmas[index : index + 2].float().reshape(2, 1)
        noisy, velocity = process.corrupt(clean, noise, here), process.target(clean, noise, here)
        stepped = scheduler.step(velocity, timestep, noisy).prev_sample
        expected = process.corrupt(clean, noise, there)
        if "Euler" in type(scheduler).__name__:
            assert torch.allclose(stepped, expected, atol=1e-5)


def test_a_row_alone_is_a_row_in_a_batch(frozen, family):
    noisy, timestep_N, condition = inputs(frozen, family)
    with torch.no_grad():
        together = frozen.predict(frozen.network, noisy, timestep_N, condition)
        for n, row in enumerate(rows_of(condition)):
            alone = frozen.predict(
                frozen.network, noisy[n : n + 1], timestep_N[n : n + 1], joined([row])
            )
            assert torch.allclose(alone[0], together[n], atol=2e-5 * float(together.abs().max()))


def test_what_lies_under_the_mask_changes_nothing(frozen, family):
    noisy, timestep_N, condition = inputs(frozen, family)
    if MASK not in condition:
        pytest.skip("its network sees padding, as in sampling")
    junk = {
        name: torch.where(condition[MASK].view(*condition[MASK].shape, *(1,) * (value.dim() - 2)),
                          value, 3 * torch.randn_like(value))
        if name.startswith("tokens") else value
        for name, value in condition.items()
    }  # fmt: skip
    with torch.no_grad():
        expected = frozen.predict(frozen.network, noisy, timestep_N, condition)
        actual = frozen.predict(frozen.network, noisy, timestep_N, junk)
    assert torch.allclose(actual, expected, atol=2e-5 * float(expected.abs().max()))
