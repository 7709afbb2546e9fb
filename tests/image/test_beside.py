"""What rows have beside pictures, prompt and label: gaps of scores, the sampler's seeds, masks."""

import io
import math
import sys
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from diffusers.utils import torch_utils
from PIL import Image

from diffdpo.cli import run_command
from diffdpo.image.backbones import BACKBONES
from diffdpo.image.pictures.side_columns import SideSettings
from diffdpo.image.process.noise import Diffusion
from diffdpo.image.process.start_noise import start_noise
from diffdpo.image.sampling.sample import PictureSettings, sample
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.scoring.errors import cell_weights, weighed
from diffdpo.image.task import ImageTask
from tests.commands.image_runs import flags, metrics, train
from tests.factory import FAMILIES
from tests.families import side
from tests.families.work import loaded
from tests.image.side_rows import LEFT, SCORES, SEEDS, mask_of, pairs_of, rows_of


def written(folder, rows):
    """A folder with the rows, for a command to read."""
    folder.mkdir()
    Dataset.from_list(rows).to_parquet(folder / "train-00000.parquet")
    return folder


def task_of(backbone, **changes):
    settings = DrawSettings(**{"seed": 3, "resolution": 32} | changes)
    process = Diffusion(backbone.pipeline.scheduler)
    return ImageTask(backbone, process, settings, torch.device("cpu"), nullcontext)


@pytest.fixture(params=FAMILIES)
def backbone(request, models):
    return loaded(str(models(request.param)))


def test_capo_learns_the_gap_and_a_run_says_what_it_reads(models, tmp_path, capsys):
    data = written(tmp_path / "data", rows_of(**SCORES))
    words = {"loss_type": "capo", "gap_scale": 2.0, "max_train_steps": 1, "train_batch_size": 6}
    train(*flags(models(), data, tmp_path / "run", **words))
    shown = capsys.readouterr().out
    assert "gaps of score, 1.5 in the mean" in shown
    assert "not read     columns model_0, model_1\n" in shown
    # Before the first step every margin is 0, so that the loss is the mean square of the gaps.
    expected = np.mean([(2 * (0.5 * i - 1)) ** 2 for i in range(6)])
    assert metrics(tmp_path / "run")[0]["loss"] == pytest.approx(expected)


# Given noise


@pytest.mark.parametrize("family", BACKBONES)
def test_the_sampler_draws_exactly_the_noise_of_a_seed(family, tiny_models, monkeypatch):
    """Taken from the pipeline's own call, in batches of two and of one, before any packing."""
    backbone, drawn, original = loaded(str(tiny_models(family))), [], torch_utils.randn_tensor

    def spy(*args, **options):
        drawn.append(original(*args, **options))
        return drawn[-1]

    monkeypatch.setattr(sys.modules[type(backbone.pipeline).__module__], "randn_tensor", spy)
    # Two steps: some schedules, stretched to an end of their own, have none of one step.
    settings = PictureSettings(steps=2, batch=2, resolution=side(family))
    sample(backbone, backbone.network, ["a", "b", "c"], [5, 6, 7], settings)
    expected = start_noise([5, 6, 7], tuple(backbone.latent_shape(side(family))))
    # One pipeline has the axis of frames, here of one, before that of channels.
    assert torch.equal(torch.cat(drawn).reshape(expected.shape), expected)


def test_every_picture_meets_its_own_noise_mirrored_as_it_is(backbone):
    pairs = pairs_of(rows_of(**SEEDS), SideSettings(noise=True))
    items = [pairs.read(row, 1) for row in range(len(pairs))]
    task = task_of(backbone, draws=2)
    draw = task.draw(task.collate(items))
    assert task.process.prediction_type == "epsilon"
    assert torch.equal(*draw.timestep_N.chunk(2))
    assert {item.flip for item in items} == {True, False}
    shape = tuple(draw.target.shape[1:])
    for number, sides in enumerate(draw.target.view(2, len(items), 2, *shape)):
        for item, both in zip(items, sides, strict=True):
            first = (pairs.first_wins[item.pair] == 1) == (number == 0)
            seed = 10 + item.pair if first else 2**40 + item.pair
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn((1, *shape), generator=generator)[0]
            expected = torch.flip(noise, dims=(2,)) if item.flip else noise
            assert torch.equal(both[0], expected)
            assert torch.equal(both[1], expected)


def test_without_the_switch_the_noise_is_drawn_and_the_run_says_so(models, tmp_path, capsys):
    data = written(tmp_path / "data", rows_of(**SEEDS))
    for name, given in (("plain", None), ("given", True)):
        words = {"given_noise": given, "max_train_steps": 2, "cache_latents": given}
        words["precompute_dir"] = tmp_path / "cache"
        train(*flags(models(), data, tmp_path / name, **words))
        shown = capsys.readouterr().out
        assert ("would be with --given_noise" in shown) == (given is None)
        assert ("every picture's own noise" in shown) == (given is True)
    plain, given = (metrics(tmp_path / name) for name in ("plain", "given"))
    assert given[0]["loss"] == pytest.approx(math.log(2), abs=1e-7)
    assert plain[0]["error/reference_chosen"] != given[0]["error/reference_chosen"]


def test_make_pairs_writes_the_seeds_that_its_pictures_were_sampled_with(models, pairs, tmp_path):
    words = ["--pretrained_model_name_or_path", models(), "--dataset_name", pairs]
    words += ["--split", "train", "--reward", "colourfulness", "--num_inference_steps", 2]
    words += ["--guidance_scale", 3]
    words += ["--output_dir", tmp_path / "made", "--resolution", 32]
    words += ["--precompute_dir", tmp_path / "tables"]
    assert run_command("make_pairs", [str(word) for word in words]) == 0
    made = str(tmp_path / "made" / "*.parquet")
    row = load_dataset("parquet", data_files=made, split="train")[1]
    backbone = loaded(str(models()))
    settings = PictureSettings(steps=2, guidance=3.0, resolution=32)
    for number in (0, 1):
        seed = row[f"seed_{number}"]
        (again,) = sample(backbone, backbone.network, [row["caption"]], [seed], settings)
        stored = np.asarray(Image.open(io.BytesIO(row[f"jpg_{number}"])), dtype=int)
        assert np.abs(np.asarray(again, dtype=int) - stored).max() <= 1  # another batch: rounding


# Masks


def test_a_cell_weighs_the_share_of_it_that_is_white():
    mask = torch.zeros(8, 8)
    mask[:4, :3] = 1.0
    found = cell_weights([mask, torch.ones(8, 8)], (2, 2))
    # Shares ¾, 0, 0, 0; their mean 3/16.
    assert found.tolist() == [[[4.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]


@pytest.mark.parametrize("shape", [(2, 3, 2, 2), (2, 3, 5, 2, 2)])
def test_the_weighted_error_is_a_mean_over_what_counts(shape):
    torch.manual_seed(0)
    residual, cells = (
        torch.randn(shape),
        cell_weights([torch.tensor([[1.0, 0], [0, 1.0]])] * 2, (2, 2)),
    )
    error, pull = weighed(residual, cells)
    expected = (residual[..., 0, 0].square() + residual[..., 1, 1].square()) / 2
    torch.testing.assert_close(error.flatten(1).mean(1), expected.flatten(1).mean(1))
    variable = residual.clone().requires_grad_()
    weighed(variable, cells)[0].sum().backward()
    torch.testing.assert_close(2 * pull, variable.grad)


def test_a_mask_is_flipped_with_its_picture_and_what_is_black_does_not_count(backbone):
    task = task_of(backbone)
    pairs = pairs_of(rows_of(**LEFT), SideSettings(mask="mask"))
    items = [pairs.read(row, 1) for row in range(len(pairs))]
    assert {item.flip for item in items} == {True, False}
    draw = task.draw(task.collate(items))
    half = draw.target.shape[-1] // 2
    for row, item in enumerate(2 * items):
        left, right = draw.cells_NHW[row, :, :half], draw.cells_NHW[row, :, half:]
        white, black = (right, left) if item.flip else (left, right)
        assert bool((white == 2).all())
        assert bool((black == 0).all())
    with torch.no_grad():
        before = task.score(backbone.network, draw)
        black = draw.cells_NHW[:, None] == 0
        other = replace(draw, target=torch.where(black, 9.0, draw.target))
        after = task.score(backbone.network, other)
        white = replace(draw, target=torch.where(black, draw.target, 9.0))
    assert torch.equal(before.score_N, after.score_N)
    assert torch.equal(before.residuals.cross_B, after.residuals.cross_B)
    assert not torch.equal(before.score_N, task.score(backbone.network, white).score_N)


def test_an_all_white_mask_changes_no_bit(backbone):
    whole = {"mask": lambda i: mask_of((0, 0, 32, 32))}
    task, scores = task_of(backbone, draws=2), []
    for beside in (SideSettings(mask="mask"), SideSettings()):
        pairs = pairs_of(rows_of(**whole), beside)
        items = [pairs.read(row, 1) for row in range(3)]
        with torch.no_grad():
            scores.append(task.score(backbone.network, task.draw(task.collate(items))).score_N)
    assert torch.equal(*scores)


def test_masks_of_each_picture_and_stored_latents(models, tmp_path, capsys):
    """A mask is read beside stored latents as beside pictures: the same losses, and a row is left
    out where its mask cannot be used."""
    columns = {
        "region_0": lambda i: mask_of((0, 0, 8 * (i != 3), 32)),
        "region_1": lambda i: mask_of((4, 4, 32, 32)),
    }
    data = written(tmp_path / "data", rows_of(8, **columns))
    for name, cached in (("live", None), ("stored", True)):
        words = {"mask_column": "region", "cache_latents": cached, "max_train_steps": 2}
        words |= {"precompute_dir": tmp_path / "cache", "proportion_empty_prompts": 0}
        train(*flags(models(), data, tmp_path / name, **words))
        shown = capsys.readouterr().out
        assert "masks of column region" in shown
        assert "7 of 8 rows" in shown
        assert "row 3: its mask has nothing white" in shown
    live, stored = (metrics(tmp_path / name) for name in ("live", "stored"))
    for a, b in zip(live, stored, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-3)
