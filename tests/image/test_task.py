"""The score and the loss over every backbone, against an independent derivation on the same
draw."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F

from diffdpo.data.source import open_dataset
from diffdpo.draws import Purpose, generator
from diffdpo.image.backbones import load_backbone
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.process.noise import Diffusion, stack_normal
from diffdpo.image.reading.pairs import image_pairs
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.task import ImageTask
from diffdpo.objective.terms import Term
from diffdpo.reference import FrozenCopy
from tests.factory import FAMILIES, changed
from tests.families.work import fresh, loaded


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


@pytest.fixture(
    params=[(family, kind) for family in FAMILIES for kind in ("epsilon", "v_prediction")],
    ids="-".join,
)
def backbone(request, models):
    return fresh(models(*request.param))


@pytest.fixture
def items(pairs):
    rows = image_pairs(open_dataset(str(pairs), "train"), FrameSettings(0, 32, flip=True))
    return [rows.read(row, 2) for row in range(4)]


def task_of(backbone, precision=nullcontext, **changes):
    process = Diffusion(backbone.pipeline.scheduler)
    return ImageTask(
        backbone,
        process,
        DrawSettings(**{"seed": 3, "resolution": 32} | changes),
        torch.device("cpu"),
        precision,
    )


def test_winner_and_loser_share_timestep_noise_and_prompt(backbone, items):
    task = task_of(backbone, empty_prompts=0.5, draws=3)
    draw = task.draw(task.collate(items))
    assert draw.timestep_N.shape == (2 * 4 * 3,)
    assert torch.equal(*draw.timestep_N.chunk(2))
    assert len(set(draw.timestep_N[:12].tolist())) > 6
    tokens = draw.condition["tokens_NLD"]
    assert torch.equal(*tokens.chunk(2))
    if task.process.prediction_type == "epsilon":
        assert torch.equal(*draw.target.chunk(2))
    assert not torch.equal(*draw.noisy.chunk(2))


def test_a_draw_depends_on_pair_and_visit_alone(backbone, items):
    task = task_of(backbone)
    together, alone = task.draw(task.collate(items)), task.draw(task.collate(items[2:3]))
    assert together.timestep_N[2] == alone.timestep_N[0]
    assert torch.allclose(together.noisy[[2, 6]], alone.noisy, atol=1e-5)


@pytest.mark.parametrize("precision", [nullcontext, autocast])
def test_policy_and_reference_agree_to_the_last_bit_before_training(backbone, items, precision):
    task = task_of(backbone, precision)
    backbone.move_encoders(
        torch.device("cpu"), torch.float32 if precision is nullcontext else torch.bfloat16
    )
    network = backbone.network.train()
    reference = FrozenCopy(network)
    draw = task.draw(task.collate(items))
    policy_N = task.score(network, draw).score_N
    assert policy_N.requires_grad
    assert policy_N.dtype == torch.float32
    assert torch.equal(policy_N.detach(), reference.score(task.score, network, draw))


def test_the_loss_is_the_published_one_on_the_same_draw(backbone, items):
    """Written anew from eq. 14 and the scale of the paper's code: mean over latents, 1/2, beta."""
    task, beta = task_of(backbone), 5000.0
    draw = task.draw(task.collate(items))
    network = backbone.network
    reference = FrozenCopy(network)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    condition = dict(draw.condition)
    tokens = condition.pop("tokens_NLD")
    names = {"pooled_ND": "text_embeds", "time_ids_N6": "time_ids"}
    added = {names[name]: value for name, value in condition.items()} or None

    def errors(net):
        out = net(draw.noisy, draw.timestep_N, tokens, added_cond_kwargs=added).sample
        return (out - draw.target).pow(2).mean(dim=[1, 2, 3])

    with torch.no_grad():
        policy_w, policy_l = errors(network).chunk(2)
        frozen_w, frozen_l = errors(reference.copy).chunk(2)
        expected = -F.logsigmoid(-0.5 * beta * ((policy_w - policy_l) - (frozen_w - frozen_l)))
        reward = task.score(network, draw).score_N - reference.score(task.score, network, draw)
        actual = Term("sigmoid", scale=beta).of_pairs(*(beta * reward).chunk(2))
    assert torch.allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_several_draws_are_averaged_inside_the_score(backbone, items):
    task = task_of(backbone, draws=2)
    draw = task.draw(task.collate(items))
    with torch.no_grad():
        score = task.score(backbone.network, draw).score_N
        flat = task.score(backbone.network, type(draw)(**{**draw.__dict__, "draws": 1})).score_N
    assert score.shape == (8,)
    assert torch.allclose(score, flat.view(8, 2).mean(dim=1))


def test_posterior_noise_is_drawn_for_each_side(backbone, items):
    batch = task_of(backbone).collate(items)
    mean, std = backbone.encode_images(batch.byte_NCHW, chunk=3)
    latents = task_of(backbone).latents(batch) / backbone.vae.config.scaling_factor
    noise = (latents - mean) / std
    assert not torch.allclose(*noise.chunk(2), atol=0.1)
    assert 0.8 < noise.std() < 1.2


def test_noise_offset_and_perturbation_are_shared_by_the_pair(backbone, items):
    plain, moved = (
        task_of(backbone, **c) for c in ({}, {"noise_offset": 0.5, "input_perturbation": 0.1})
    )
    draw = moved.draw(moved.collate(items))
    before = plain.draw(plain.collate(items))
    assert not torch.allclose(draw.noisy, before.noisy)
    shift_w, shift_l = (draw.noisy - before.noisy).chunk(2)
    assert torch.allclose(shift_w, shift_l, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_loss_target_is_the_noise_without_the_perturbation(backbone, items, offset):
    """Ning et al. 2023: the network sees more noise than it is asked for."""
    plain, perturbed = (
        task_of(backbone, noise_offset=offset, input_perturbation=share) for share in (0.0, 0.1)
    )
    before, draw = (task.draw(task.collate(items)) for task in (plain, perturbed))
    assert not torch.allclose(draw.noisy, before.noisy)
    assert torch.equal(draw.target, before.target)
    if perturbed.process.prediction_type == "epsilon" and not offset:
        sources = [generator(3, Purpose.NOISE, item.pair, item.visit) for item in items]
        noise = stack_normal(sources, tuple(draw.target.shape[1:]))
        assert torch.equal(draw.target, torch.cat([noise, noise]))


def test_latents_are_centred_and_then_scaled(models, items, tmp_path):
    mean, std = [0.1, -1.0, 0.5, 2.0], [2.0, 1.0, 4.0, 0.5]
    folder = changed(
        models("StableDiffusionXLPipeline"),
        tmp_path / "centred",
        "vae/config.json",
        latents_mean=mean,
        latents_std=std,
    )
    backbone = load_backbone(str(folder))
    task = task_of(backbone)
    batch = task.collate(items)
    means, stds = backbone.encode_images(batch.byte_NCHW, chunk=8)
    sides = (Purpose.POSTERIOR_CHOSEN, Purpose.POSTERIOR_REJECTED)
    sources = [generator(3, side, item.pair, item.visit) for side in sides for item in items]
    latents = means + stds * stack_normal(sources, tuple(means.shape[1:]))
    assert backbone.vae.config.scaling_factor == 0.5
    centre, width = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, std))
    assert torch.equal(task.latents(batch), (latents - centre) * 0.5 / width)


def test_empty_prompts_are_as_frequent_as_asked(backbone, items):
    task = task_of(backbone, empty_prompts=1.0)
    empty = backbone.encode_prompts([""])["tokens_NLD"]
    assert torch.allclose(
        task.draw(task.collate(items)).condition["tokens_NLD"][:1], empty, atol=1e-6
    )


def test_sizes_reach_the_networks_that_ask_for_them(models, items):
    task = task_of(loaded(str(models("StableDiffusionXLPipeline"))))
    ids = task.draw(task.collate(items)).condition["time_ids_N6"]
    assert ids[0].tolist() == [32, 32, 0, 0, 32, 32]
    assert ids.shape == (8, 6)
