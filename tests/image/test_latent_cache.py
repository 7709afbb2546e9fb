"""Stored latents and embeddings: the same draws as live ones, and everything they depend on finds
them again."""

import io
import os
import sys
from contextlib import nullcontext

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from PIL import Image

from diffdpo.image.backbones import load_backbone, load_encoders
from diffdpo.image.caching.cache_keys import EncoderDigests, images_digest, latents_key, prompts_key
from diffdpo.image.caching.latent_cache import store_encodings
from diffdpo.image.pictures.framing import FrameSettings
from diffdpo.image.process.noise import Diffusion
from diffdpo.image.reading.pairs import image_pairs
from diffdpo.image.scoring.collation import DrawSettings
from diffdpo.image.settings import ImageSettings
from diffdpo.image.task import ImageTask
from tests.conftest import run
from tests.factory import FAMILIES, changed, encoded, pickapic_rows, picture
from tests.families.work import fresh

CPU = torch.device("cpu")
HUB = {"revision": None, "variant": None, "cache_dir": None}


def pairs_of(rows, **changes):
    framing = FrameSettings(**{"seed": 0, "resolution": 32, "flip": True} | changes)
    return image_pairs(Dataset.from_list(rows), framing)


def task_of(backbone, embed=None):
    process = Diffusion(backbone.pipeline.scheduler)
    return ImageTask(
        backbone,
        process,
        DrawSettings(3, 32, empty_prompts=0.3),
        torch.device("cpu"),
        nullcontext,
        embed,
    )


def stored(folder, pairs, root, dtype=torch.float32):
    """The same pairs with their encodings read from disk, and the task that reads them."""
    settings = ImageSettings(precompute_dir=str(root), vae_encode_batch_size=8)
    backbone = load_backbone(str(folder), encoders=False, **HUB)

    def load(names):
        load_encoders(backbone, names)
        backbone.move_encoders(torch.device("cpu"), dtype)

    identity = EncoderDigests.of(backbone, str(folder), None, HUB, dtype, CPU)
    embed = store_encodings(pairs, backbone, load, identity, settings, Accelerator(cpu=True))
    assert backbone.encoders() == []
    return task_of(backbone, embed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_draws_are_those_of_live_encoding(models, tmp_path, family, dtype):
    rows, live = pickapic_rows(6), fresh(models(family))
    live.move_encoders(torch.device("cpu"), dtype)
    live_pairs, task = pairs_of(rows), task_of(live)
    for _ in range(2):  # computed, then read
        pairs = pairs_of(rows)
        cached = stored(models(family), pairs, tmp_path, dtype)
        for visit in range(3):
            expected = task.draw(task.collate([live_pairs.read(row, visit) for row in range(4)]))
            actual = cached.draw(cached.collate([pairs.read(row, visit) for row in range(4)]))
            assert torch.equal(actual.timestep_N, expected.timestep_N)
            assert actual.condition.keys() == expected.condition.keys()
            near = (
                {"rtol": 1e-5, "atol": 1e-5}
                if dtype == torch.float32
                else {"rtol": 2e-2, "atol": 2e-2}
            )
            assert torch.allclose(actual.noisy, expected.noisy, **near)
            assert torch.allclose(actual.target, expected.target, **near)
            for name, value in expected.condition.items():
                assert torch.allclose(actual.condition[name].float(), value.float(), **near)


def test_stored_latents_are_centred_and_then_scaled(models, tmp_path):
    """The posterior is stored as the autoencoder gave it; (z − 0.1) · 0.5 is taken on reading."""
    latents = {}
    for mean in (0.0, 0.1):
        folder = changed(
            models("StableDiffusionXLPipeline"),
            tmp_path / f"mean {mean}",
            "vae/config.json",
            latents_mean=[mean] * 4,
            latents_std=[1.0] * 4,
        )
        pairs = pairs_of(pickapic_rows(4))
        cached, live = (
            stored(folder, pairs, tmp_path / "cache"),
            task_of(load_backbone(str(folder))),
        )
        batch = live.collate([pairs_of(pickapic_rows(4)).read(row, 0) for row in range(4)])
        latents[mean] = cached.latents(cached.collate([pairs.read(row, 0) for row in range(4)]))
        assert torch.allclose(latents[mean], live.latents(batch), rtol=1e-5, atol=1e-5)
    moved = latents[0.1] - latents[0.0]
    assert torch.allclose(moved, torch.full_like(moved, -0.1 * 0.5), atol=1e-6)


def test_nothing_is_loaded_where_everything_is_stored(models, tmp_path, monkeypatch):
    rows = pickapic_rows(4)
    stored(models(), pairs_of(rows), tmp_path)
    monkeypatch.setattr(
        "tests.image.test_latent_cache.load_encoders", lambda *args: pytest.fail("loaded")
    )
    stored(models(), pairs_of(rows), tmp_path)


def test_unreadable_images_are_named_and_dropped(models, tmp_path):
    rows = pickapic_rows(30)
    rows[7]["jpg_1"] = rows[7]["jpg_1"][:40]
    checked, pairs = pairs_of(rows), pairs_of(rows)
    checked.check(quiet=True)
    stored(models(), pairs, tmp_path)
    assert list(pairs.rows) == list(checked.rows)
    assert pairs.fingerprint == checked.fingerprint
    assert pairs.tally.unreadable[0].startswith("row 7: ")
    assert [pairs.read(row, 0).pair for row in range(29)] == list(checked.rows)


def test_the_keys_follow_what_the_numbers_depend_on_and_nothing_else(models):
    rows = pickapic_rows(4)

    def keys(rows, **changes):
        flip = changes.get("flip", True)
        settings = ImageSettings(resolution=changes.get("resolution", 32), no_hflip=not flip)
        pairs = pairs_of(rows, **changes)
        return latents_key(pairs, settings, "encoder").folder, prompts_key(pairs, "encoder").folder

    latents, prompts = keys(rows)
    turned = [{**row, "label_0": row["label_1"], "label_1": row["label_0"]} for row in rows]
    assert keys(turned) == (latents, prompts)
    assert keys(rows, seed=9) == (latents, prompts)
    for changes in ({"resolution": 16}, {"flip": False}):
        assert keys(rows, **changes)[0] != latents
        assert keys(rows, **changes)[1] == prompts
    renamed = [{**row, "caption": row["caption"] + "!"} for row in rows]
    assert keys(renamed) == (latents, keys(renamed)[1])
    assert keys(renamed)[1] != prompts
    other = [dict(row) for row in rows]
    other[2]["jpg_0"] = encoded(picture(99), "JPEG")
    assert keys(other)[0] != latents


def test_encoders_are_told_apart_by_files_precision_and_kind_of_device(models):
    def digests(family="StableDiffusionPipeline", dtype=torch.float32, device=CPU):
        folder = str(models(family))
        backbone = load_backbone(folder, encoders=False, **HUB)
        return EncoderDigests.of(backbone, folder, None, HUB, dtype, device)

    one = digests()
    assert one == digests()
    assert one == digests(device=torch.device("cpu", 0))  # as a run of several processes says it
    for other in (digests(dtype=torch.bfloat16), digests(device=torch.device("cuda", 0))):
        assert one.autoencoder != other.autoencoder
        assert one.text_encoder != other.text_encoder
    assert digests("StableDiffusionXLPipeline") != one


SHOW_FACTS = """
import sys
from diffusers import PNDMScheduler
from diffdpo.image.caching.cache_keys import EncoderDigests, reference_key
from diffdpo.image.process.noise import Diffusion
from diffdpo.image.settings import ImageSettings
from tests.factory import pickapic_rows
from tests.image.test_latent_cache import pairs_of

PNDMScheduler(beta_schedule="scaled_linear").save_pretrained(sys.argv[1])
process = Diffusion(PNDMScheduler.from_pretrained(sys.argv[1]))
pairs, encoders = pairs_of(pickapic_rows(2)), EncoderDigests("a", "b")
key = reference_key(pairs, process, encoders, "network", ImageSettings())
print(sorted(key.facts.items()))
"""


def test_facts_are_the_same_in_every_process(tmp_path, monkeypatch, capsys):
    """Python orders sets anew in each; a table would never be found again."""
    seed = 1 if os.environ.get("PYTHONHASHSEED") != "1" else 2
    other = run([sys.executable, "-c", SHOW_FACTS, str(tmp_path)], PYTHONHASHSEED=str(seed))
    assert other.returncode == 0, other.stderr
    monkeypatch.setattr(sys, "argv", ["-c", str(tmp_path)])
    capsys.readouterr()
    exec(SHOW_FACTS, {})
    assert capsys.readouterr().out == other.stdout


def test_the_configuration_is_that_of_the_loaded_autoencoder(models):
    without, whole = (
        load_backbone(str(models()), encoders=False, **HUB),
        load_backbone(str(models()), **HUB),
    )
    assert without.vae is None
    assert (without.pixel_factor, without.vae_config.scaling_factor) == (whole.pixel_factor, 0.5)


def test_files_are_told_apart_by_their_contents(tmp_path):
    rows = []
    for index in range(3):
        for side in ("a", "b"):
            picture(index).save(tmp_path / f"{side}{index}.png")
        rows.append(
            {
                "chosen": f"{tmp_path}/a{index}.png",
                "rejected": f"{tmp_path}/b{index}.png",
                "prompt": "p",
            }
        )
    before = images_digest(pairs_of(rows))
    picture(50).save(tmp_path / "b1.png")
    assert images_digest(pairs_of(rows)) != before


@pytest.mark.parametrize("as_record", [False, True])
def test_of_many_files_size_and_time_tell_the_unread_ones(tmp_path, monkeypatch, as_record):
    monkeypatch.setattr("diffdpo.image.caching.cache_keys.READ_UP_TO", 2)
    rows = []
    for index in range(6):
        for side in ("a", "b"):
            picture(index).save(tmp_path / f"{side}{index}.png")
        names = {side: f"{tmp_path}/{side}{index}.png" for side in ("a", "b")}
        stored = {k: {"bytes": None, "path": v} if as_record else v for k, v in names.items()}
        rows.append({"chosen": stored["a"], "rejected": stored["b"], "prompt": "p"})
    before = images_digest(pairs_of(rows))
    assert images_digest(pairs_of(rows)) == before
    for index in (1, 2, 4):  # none of them is among the two rows that are read
        picture(50 + index, (64, 64)).save(tmp_path / f"b{index}.png")
    changed = images_digest(pairs_of(rows))
    assert changed != before
    os.utime(tmp_path / "a4.png", ns=(1, 1))
    assert images_digest(pairs_of(rows)) != changed


def test_large_jpegs_are_decoded_small_and_look_the_same():
    pixels = picture(3, (800, 640))
    row = {
        "chosen": encoded(pixels, "JPEG", quality=95),
        "rejected": encoded(picture(4, (64, 48)), "JPEG"),
    }
    pairs = pairs_of([{**row, "prompt": "p"}], resolution=100, flip=False)
    large, small = pairs.images(0)
    assert (large.size, small.size) == ((200, 160), (64, 48))
    item = pairs.read(0, 0)
    assert item.chosen.original_size == (640, 800)
    assert item.chosen.crop_top_left == (0, 12)
    whole = (
        Image.open(io.BytesIO(row["chosen"]))
        .resize((125, 100), Image.Resampling.BILINEAR)
        .crop((12, 0, 112, 100))
    )
    expected = torch.tensor(list(whole.getdata())).view(100, 100, 3).permute(2, 0, 1) / 127.5 - 1
    assert (item.chosen.pixels_CHW - expected).abs().mean() < 0.01
