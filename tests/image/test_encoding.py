"""The autoencoder gets full batches of one size, and a row does not depend on those beside it."""

import pytest
import torch
from safetensors.torch import load

from diffdpo.batched import batched
from diffdpo.image.backbones import load_backbone
from diffdpo.image.caching.cache_keys import latents_key
from diffdpo.image.caching.encoding import encoded_rows, images_at_once
from diffdpo.image.caching.latent_cache import latents_cost
from diffdpo.image.settings import ImageSettings
from tests.factory import pickapic_rows
from tests.image.test_latent_cache import pairs_of


@pytest.fixture
def backbone(models):
    return load_backbone(str(models()))


def rows(backbone, pairs, spans, flips=2, chunk=8, workers=0):
    """The rows, which come with the numbers of the ranges."""
    found = list(encoded_rows(pairs, flips, backbone, chunk, workers, iter(spans)))
    assert [number for number, _ in found] == [number for span in spans for number in span]
    return [row for _, row in found]


@pytest.mark.parametrize(
    ("flips", "chunk", "sizes"),
    [
        (2, 8, [8, 8, 8, 8]),  # two rows of four; the last of a range filled up
        (1, 8, [8, 8]),
        (2, 3, [3, 1] * 6),  # a row at a time, in parts
        (2, 100, [100, 100]),
    ],
)
def test_batches_have_one_size_whatever_is_left_at_the_end_of_a_range(
    backbone, monkeypatch, flips, chunk, sizes
):
    seen, posterior = [], type(backbone).posterior
    monkeypatch.setattr(
        type(backbone), "posterior", lambda self, x: seen.append(len(x)) or posterior(self, x)
    )
    pairs = pairs_of(pickapic_rows(6), flip=flips == 2)
    found = rows(backbone, pairs, [range(0, 3), range(3, 6)], flips, chunk)
    assert (len(found), seen) == (6, sizes)
    assert max(seen) == images_at_once(flips, chunk)


def test_a_row_is_the_same_in_whatever_range_it_is_and_by_however_many_workers(backbone):
    pairs = pairs_of(pickapic_rows(6))
    whole = rows(backbone, pairs, [range(0, 6)])
    assert rows(backbone, pairs, batched(range(6), 1)) == whole
    assert rows(backbone, pairs, [range(3, 6), range(0, 3)]) == whole[3:] + whole[:3]
    assert rows(backbone, pairs, batched(range(6), 4), workers=1) == whole


def test_each_image_is_its_own_and_unreadable_rows_take_no_place(backbone):
    data = pickapic_rows(4)
    data[1]["jpg_1"] = data[1]["jpg_1"][:40]
    pairs = pairs_of(data)
    found = rows(backbone, pairs, [range(0, 4)])
    assert [row["tensors"] is None for row in found] == [False, True, False, False]
    assert "jpg_1" in found[1]["unreadable"]
    stored = load(found[2]["tensors"])
    for flip in (False, True):
        first, second = pairs_of(data).framed(2, flipped(flip))
        mean, std = backbone.encode_images(torch.stack([first.pixels_CHW, second.pixels_CHW]), 8)
        for side in (0, 1):
            at = 2 * side + flip
            assert torch.allclose(stored["mean"][at], mean[side], atol=1e-5)
            assert torch.allclose(stored["std"][at], std[side], atol=1e-5)


def flipped(flip):
    from diffdpo.image.pictures.pixels import Augmentation

    return Augmentation(flip=flip)


def test_all_rows_of_a_batch_may_be_unreadable(backbone):
    data = [{**row, "jpg_0": b"no"} for row in pickapic_rows(3)]
    assert all(row["unreadable"] for row in rows(backbone, pairs_of(data), [range(0, 3)]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("flips", [1, 2])
def test_a_row_takes_what_was_announced(backbone, dtype, flips):
    """Half of it in half precision, and half of it without mirrored copies."""
    backbone.move_encoders(torch.device("cpu"), dtype)
    pairs = pairs_of(pickapic_rows(2), flip=flips == 2)
    row = rows(backbone, pairs, [range(0, 1)], flips)[0]["tensors"]
    stored = load(row)
    assert stored["mean"].dtype == stored["std"].dtype == dtype
    assert len(stored["mean"]) == 2 * flips
    settings = ImageSettings(resolution=32, no_hflip=flips == 1)
    cost = latents_cost(backbone, settings, dtype)
    assert cost.bytes == sum(stored[name].nbytes for name in ("mean", "std"))
    assert cost.bytes < len(row) < cost.bytes + 400
    assert ("--no_hflip" in cost.advice) == (flips == 2)
    assert ("bf16" in cost.advice) == (dtype == torch.float32)


def test_the_size_of_a_batch_names_the_table():
    def folder(**changes):
        return latents_key(pairs, ImageSettings(resolution=32, **changes), "encoder").folder

    pairs = pairs_of(pickapic_rows(2))
    assert folder(vae_encode_batch_size=8) == folder(vae_encode_batch_size=11)  # two rows of four
    assert folder(vae_encode_batch_size=8) != folder(vae_encode_batch_size=16)
