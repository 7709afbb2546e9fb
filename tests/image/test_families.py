"""What holds for every family of the table: a new row meets all of it without a new test."""

import functools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from diffdpo.errors import UserError
from diffdpo.image.backbones import BACKBONES, backbone_of, load_backbone, load_encoders
from diffdpo.image.backbones.conditions import MASK, joined, rows_of
from diffdpo.image.network import make_reference, make_trainable
from diffdpo.image.pixels import PixelImage
from diffdpo.image.processes import process_for
from diffdpo.image.sample import PictureSettings, sample
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import DrawSettings, ImageBatch, ImageTask
from diffdpo.losses import preference_loss
from diffdpo.preference import implicit_reward
from tests.families import factory, side

CPU = torch.device("cpu")
PROMPTS = ["a cat", "a much longer prompt", ""]


@pytest.fixture(scope="module", params=BACKBONES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    factory(family).tiny().save_pretrained(folder)
    return folder


@pytest.fixture
def backbone(folder):
    return load_backbone(str(folder))


@pytest.fixture(scope="module")
def frozen(folder):
    """One that no test changes."""
    return load_backbone(str(folder))


def images(count, resolution, original=None):
    torch.manual_seed(2)
    pixels = (2 * torch.rand(count, 3, resolution, resolution) - 1).unbind()
    return [PixelImage((original or resolution,) * 2, (0, 0), one) for one in pixels]


def inputs(backbone, family, prompts=PROMPTS):
    """Latents, timesteps and condition of an item for each prompt."""
    torch.manual_seed(1)
    resolution, rows = side(family), len(prompts)
    sizes = backbone.size_condition(images(rows, resolution), resolution)
    noisy = torch.randn(rows, *backbone.latent_shape(resolution))
    t = torch.linspace(0.2, 0.9, rows)
    timestep_N = t if backbone.is_flow else (1000 * t).long()
    return noisy, timestep_N, {**backbone.encode_prompts(prompts), **sizes}


def settings_of(folder, family, **changes):
    return ImageSettings(
        pretrained_model_name_or_path=str(folder), resolution=side(family), rank=2, **changes
    )


def batch_of(family, pairs=1):
    resolution = side(family)
    pictures = images(2 * pairs, resolution)
    return ImageBatch(
        pairs=list(range(pairs)), visits=[0] * pairs, prompts=["a cat"] * pairs, images=pictures,
        pixels_NCHW=torch.stack([picture.pixels_CHW for picture in pictures]),
        posterior_NCHW=None, outcome_B=None, reference_N=None,
    )  # fmt: skip


def task_of(backbone, settings):
    draws = DrawSettings(seed=0, resolution=settings.resolution)
    process, encode = process_for(backbone, settings), functools.cache(backbone.encode_prompts)
    return ImageTask(
        backbone, process, draws, CPU, Accelerator(cpu=True).autocast,
        encode_prompts=lambda prompts: encode(tuple(prompts)),
    )  # fmt: skip


class Spied:
    """A pipeline's run of four steps: inputs and outputs of its steps, and what it decodes."""

    def __init__(self, backbone, family, monkeypatch, prompts=("a cat",), guidance=None):
        self.steps, self.decoded = [], None
        pipeline, scheduler = backbone.pipeline, backbone.pipeline.scheduler
        step, decode = scheduler.step, pipeline.vae.decode

        def spied_step(output, timestep, sample, *rest, **options):
            self.steps.append((output.clone(), timestep, sample.clone()))
            result = step(output, timestep, sample, *rest, **options)
            self.latents = result[0] if isinstance(result, tuple) else result.prev_sample
            return result

        def spied_decode(latents, *rest, **options):
            self.decoded = latents.clone()
            return decode(latents, *rest, **options)

        monkeypatch.setattr(scheduler, "step", spied_step)
        monkeypatch.setattr(pipeline.vae, "decode", spied_decode)
        pipeline.set_progress_bar_config(disable=True)
        guidance = backbone.guidance_off if guidance is None else guidance
        with torch.no_grad():
            pipeline(
                prompt=list(prompts), height=side(family), width=side(family),
                num_inference_steps=4, generator=torch.Generator().manual_seed(0),
                output_type="pt", **backbone.sampling_options(guidance, len(prompts)),
            )  # fmt: skip


def latents_of(family, sampled, backbone):
    """Latents as ``predict`` takes them, of what a pipeline gives to its scheduler."""
    unpacked = getattr(factory(family), "unpacked", lambda sampled, shape: sampled)
    return unpacked(sampled, backbone.latent_shape(side(family)))


@pytest.fixture(params=["picture", "clip"])
def of_a_length(request, backbone):
    """The backbone, for pictures or for clips of two latent frames."""
    if request.param == "clip":
        if backbone.frame_factor is None:
            pytest.skip("it makes pictures alone")
        backbone.num_frames = 1 + backbone.frame_factor
    return backbone


def test_predicts_what_the_pipeline_gives_to_its_scheduler(of_a_length, family, monkeypatch):
    backbone = of_a_length
    spied = Spied(backbone, family, monkeypatch)
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


def test_guidance_leads_away_from_the_empty_prompt(backbone, family, monkeypatch):
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
def test_a_picture_depends_on_its_prompt_and_seed_alone(folder, family, dtype):
    backbone = load_backbone(str(folder), dtype=dtype)
    backbone.move_encoders(CPU, dtype)
    settings = PictureSettings(2, backbone.guidance_off + 2, 2, side(family))
    call = functools.partial(sample, backbone, backbone.network.float())
    together = call(PROMPTS[:2], [1, 2], settings)
    assert [picture.size for picture in together] == 2 * [(side(family), side(family))]
    if dtype == torch.float32:
        (alone,) = call(PROMPTS[1:2], [2], settings)
        apart = np.asarray(alone, np.int16) - np.asarray(together[1])
        assert np.abs(apart).max() <= 2
        assert np.abs(np.asarray(alone, np.int16) - np.asarray(together[0])).max() > 2


def test_latents_have_the_scale_that_the_pipeline_undoes(of_a_length, family, monkeypatch):
    backbone = of_a_length
    spied = Spied(backbone, family, monkeypatch)
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


def tokens_of(row):
    return max((row[name] for name in row if name.startswith("tokens")), key=len)


def test_stored_embeddings_are_live_ones(frozen):
    together = frozen.encode_prompts(PROMPTS)
    alone = joined([rows_of(frozen.encode_prompts([prompt]))[0] for prompt in PROMPTS])
    assert together.keys() == alone.keys()
    for name, value in together.items():
        assert torch.allclose(value.float(), alone[name].float(), atol=1e-6), name
    prompts = ["a cat", "a dog", ""]
    differing = rows_of(frozen.encode_prompts(prompts))
    for one, other in ((0, 1), (0, 2)):
        first, second = (tokens_of(differing[n]) for n in (one, other))
        assert first.shape != second.shape or not torch.allclose(first, second)


def test_prompts_are_cut_where_the_count_says(frozen):
    # Of one letter, which is a token in every tiny tokenizer.
    most = 1100
    longest = most - frozen.cut_prompts(["a" * length for length in range(1, most + 1)])
    whole, cut = "a" * (longest - 1), "a" * longest
    rows = rows_of(frozen.encode_prompts([whole + "a", whole + "b", cut + "b", cut + "c"]))
    read, other, *ends = map(tokens_of, rows)
    assert not torch.allclose(read, other)
    assert torch.allclose(*ends)
    if getattr(frozen, "before_prompt", str)():
        special = len(frozen.token_ids("tokenizer", [""])[0])
        assert longest + special == frozen.longest_prompt


def test_where_encodings_are_stored_no_encoder_is_needed(frozen, family, folder):
    bare, resolution = load_backbone(str(folder), encoders=False), side(family)
    assert not bare.encoders()
    assert bare.latent_shape(resolution) == frozen.latent_shape(resolution)
    assert bare.tokens(resolution) == frozen.tokens(resolution)
    call = inputs(frozen, family)
    with torch.no_grad():
        ours, theirs = (one.predict(one.network, *call) for one in (bare, frozen))
    assert torch.equal(ours, theirs)
    assert torch.equal(bare.normalise(call[0]), frozen.normalise(call[0]))
    load_encoders(bare)
    pixels = torch.stack([image.pixels_CHW for image in images(2, resolution)])
    pairs = zip(bare.encode_images(pixels, 1), frozen.encode_images(pixels, 2), strict=True)
    for ours, theirs in pairs:
        assert ours.shape[1:] == frozen.latent_shape(resolution)
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_checkpointing_changes_nothing(backbone, family):
    network = backbone.network
    if not network._supports_gradient_checkpointing:
        with pytest.raises(UserError, match="gradient_checkpointing"):
            make_trainable(
                backbone, ImageSettings(rank=None, gradient_checkpointing=True), torch.float32, CPU
            )
        return
    call = inputs(backbone, family)
    results = []
    for checkpointed in (False, True):
        settings = ImageSettings(rank=None, gradient_checkpointing=checkpointed)
        make_trainable(backbone, settings, torch.float32, CPU).train()
        network.zero_grad()
        output = backbone.predict(network, *call)
        output.square().mean().backward()
        results.append((output.detach(), [weight.grad for weight in network.parameters()]))
    (plain, gradients), (output, others) = results
    assert torch.equal(plain, output)
    for one, other in zip(gradients, others, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_policy_and_reference_begin_as_one(folder, family, dtype):
    backbone = load_backbone(str(folder), dtype=dtype)
    settings = settings_of(folder, family, gradient_checkpointing=True)
    if not backbone.network._supports_gradient_checkpointing:
        settings = settings_of(folder, family)
    if not hasattr(backbone.network, "add_adapter"):
        settings = settings_of(folder, family).__class__(
            pretrained_model_name_or_path=str(folder), resolution=side(family), rank=None
        )
    network = make_trainable(backbone, settings, dtype, CPU)
    reference = make_reference(network, settings)
    task = task_of(backbone, settings)
    half = torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16)
    with half:
        network.train()
        draw = task.draw(batch_of(family))
        frozen_N = reference.score(task.score, network, draw)
        reward_N = implicit_reward(task.score(network, draw).score_N, frozen_N)
        loss_B = preference_loss("sigmoid", *reward_N.chunk(2), beta=5000.0)
        loss_B.mean().backward()
    assert reward_N.tolist() == [0.0, 0.0]
    assert loss_B.item() == pytest.approx(math.log(2), abs=1e-7)
    gradients = [weight.grad for weight in network.parameters() if weight.requires_grad]
    assert any(bool(gradient.any()) for gradient in gradients if gradient is not None)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients if gradient is not None)


def test_adapters_reach_every_block(backbone, folder, family):
    if not hasattr(backbone.network, "add_adapter"):
        pytest.skip("it takes no adapters")
    network = make_trainable(backbone, settings_of(folder, family), torch.float32, CPU)
    adapted = [name for name, weight in network.named_parameters() if "lora" in name]
    blocks = {
        f"{name}.{index}"
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.ModuleList)
        for index in range(len(module))
    }
    attended = {block for block in blocks if any("attn" in n or "attention" in n
                for n, _ in network.get_submodule(block).named_modules())}  # fmt: skip
    assert attended
    bare = {b for b in attended if not any(name.startswith(f"{b}.") for name in adapted)}
    assert not bare


def test_distilled_models_are_refused_unless_asked_for(family, tmp_path):
    make = factory(family).tiny
    distilled = make(distilled=True)
    distilled.save_pretrained(tmp_path)
    kind = type(load_backbone(str(tmp_path), is_turbo=True))
    if kind.distilled.__func__ is kind.__mro__[-2].distilled.__func__:
        pytest.skip("its configuration does not tell")
    for load in (lambda: load_backbone(str(tmp_path)), lambda: backbone_of(distilled)):
        with pytest.raises(UserError, match=r"distilled.*--is_turbo"):
            load()
    assert backbone_of(distilled, is_turbo=True)


def test_a_toy_preference_is_learned(backbone, folder, family):
    settings = settings_of(folder, family)
    if not hasattr(backbone.network, "add_adapter"):
        settings = ImageSettings(resolution=side(family), rank=None)
    network = make_trainable(backbone, settings, torch.float32, CPU)
    reference, task = make_reference(network, settings), task_of(backbone, settings)
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    batch = batch_of(family)
    margins = []
    for visit in range(16):
        draw = task.draw(ImageBatch(**{**vars(batch), "visits": [visit % 4]}))
        frozen_N = reference.score(task.score, network, draw)
        chosen_B, rejected_B = implicit_reward(task.score(network, draw).score_N, frozen_N).chunk(2)
        optimizer.zero_grad()
        preference_loss("sigmoid", chosen_B, rejected_B, beta=200.0).mean().backward()
        optimizer.step()
        margins.append((chosen_B - rejected_B).item())
    assert sum(margins[-8:]) > 0
    assert min(margins[-4:]) > margins[0]
