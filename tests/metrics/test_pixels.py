"""The image rules against transformers' processor, torch's resize and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from diffdpo.metrics.pixels import CROP, CROP_EVEN, MEAN, PAD, STD
from tests.metrics.tiny import noise as picture

SIZES = [(64, 64), (32, 32), (96, 32), (75, 50), (33, 90), (20, 20), (53, 32), (32, 55)]


def unscaled(pixels):
    """(H, W, 3) in [0, 1]."""
    return pixels[0].transpose(1, 2, 0) * np.array(STD) + np.array(MEAN)


@pytest.mark.parametrize("size", SIZES)
def test_crop_is_the_rule_of_clips_processor(size):
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    image = picture(1, size)
    expected = processor(images=image, return_tensors="np")["pixel_values"]
    assert CROP.pixels([image], 32) == pytest.approx(expected, abs=2e-5)


def test_halves_of_odd_margins_go_down_or_to_even():
    """A picture whose columns are numbered: 32 + 3 wide, so 1.5 columns lie before the square."""
    columns = np.tile(np.arange(35, dtype=np.uint8) * 7, (32, 1))
    image = Image.fromarray(np.stack([columns] * 3, axis=-1))
    first = [round(unscaled(r.pixels([image], 32))[0, 0, 0] * 255 / 7) for r in (CROP, CROP_EVEN)]
    assert first == [1, 2]


@pytest.mark.parametrize("size", SIZES)
def test_pad_is_torchs_antialiased_resize_on_black(size):
    image = picture(2, size)
    values = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
    height, width = (max(1, round(side * 32 / max(size))) for side in values.shape[2:])
    small = torch.nn.functional.interpolate(values, (height, width), mode="bicubic", antialias=True)
    square = unscaled(PAD.pixels([image], 32))
    left, top = (32 - width) // 2, (32 - height) // 2
    inside = square[top : top + height, left : left + width]
    assert inside == pytest.approx(small[0].permute(1, 2, 0).numpy(), abs=2e-4)
    square[top : top + height, left : left + width] = 0
    assert square == pytest.approx(0, abs=1e-6)


def test_a_rule_without_antialias_would_be_far_off():
    """The mistake of many copies, of which the tests above must be able to see."""
    image = picture(0, (512, 512))
    values = torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255
    plain = torch.nn.functional.interpolate(values, (32, 32), mode="bicubic")
    square = unscaled(PAD.pixels([image], 32))
    assert abs(square - plain[0].permute(1, 2, 0).numpy()).mean() > 0.02


@pytest.mark.parametrize("rule", [CROP, CROP_EVEN, PAD])
def test_a_strip_of_one_pixel_has_a_place(rule):
    assert np.isfinite(rule.pixels([picture(3, (40, 1))], 32)).all()
    assert rule.pixels([picture(3, (40, 1)), picture(4, (9, 7))], 16).shape == (2, 3, 16, 16)
