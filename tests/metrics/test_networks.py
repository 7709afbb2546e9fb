"""Rewards with networks against derivations of their own, on tiny networks in the folder forms."""

from __future__ import annotations

import json
import shutil
import sys
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPModel, CLIPVisionModelWithProjection

from diffdpo.metrics import REWARDS
from diffdpo.metrics.judged import judged
from tests.factory import picture
from tests.metrics import tiny

MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
PROMPTS = ["a red cat", "two dogs", "a bee", "a red cat", "nothing at all"]
LONG = "a picture of a very small house " * 30
READS = [name for name in tiny.WITH_WEIGHTS if name != "laion_aesthetic"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    @cache
    def get(name, seed=0):
        return tiny.SAVE[name](tmp_path_factory.mktemp(name.replace(".", "-")), seed)

    return get


@pytest.fixture(scope="module")
def rewards(folders):
    return cache(lambda name, seed=0: REWARDS[name](str(folders(name, seed))))


@pytest.fixture(scope="module")
def pictures():
    sizes = [(64, 64), (96, 32), (40, 57), (32, 32), (75, 50)]
    return [tiny.noise(at, size) for at, size in enumerate(sizes)]


def crop(image, even):
    """The rule of CLIP's processor; ``even``: that of torchvision, which rounds halves to even."""
    scale = 32 / min(image.size)
    size = [max(32, int(scale * side + 1e-9)) for side in image.size]
    x, y = (round((side - 32) / 2) if even else (side - 32) // 2 for side in size)
    values = np.asarray(image.convert("RGB").resize(size, Image.BICUBIC))[y : y + 32, x : x + 32]
    return torch.tensor((values / 255.0 - MEAN) / STD).permute(2, 0, 1)[None].float()


def pad(image, _):
    """HPS: torch's own antialiased bicubic on floats."""
    values = torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1)[None] / 255
    height, width = (round(side * 32 / max(image.size)) for side in values.shape[2:])
    small = torch.nn.functional.interpolate(
        values, (height, width), mode="bicubic", antialias=True, align_corners=False
    )
    left, top = (32 - width) // 2, (32 - height) // 2
    whole = torch.zeros(1, 3, 32, 32)
    whole[:, :, top : top + height, left : left + width] = small
    return (whole - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


@cache
def loaded(kind, folder):
    return kind.from_pretrained(folder)


@torch.no_grad()
def by_hand(name, folder, image, prompt):
    """The score of one picture in a few lines."""
    if name == "laion_aesthetic":
        tower = loaded(CLIPVisionModelWithProjection, folder)
        state, head = tower(crop(image, True)).image_embeds, load_file(folder / "head.safetensors")
        return (head["weight"] @ (state / state.norm()).T + head["bias"]).item()
    clip, tokenizer = loaded(CLIPModel, folder), loaded(AutoTokenizer, folder)
    ids = tokenizer(prompt, truncation=True, max_length=77, return_tensors="pt").input_ids
    out = clip(input_ids=ids, pixel_values=(pad if "hps" in name else crop)(image, False))
    cosine = torch.cosine_similarity(out.text_embeds, out.image_embeds).item()
    return {
        "pickscore": out.logits_per_image.item(),
        "clipscore": max(0.0, 100 * cosine),
    }.get(name, cosine)


@pytest.mark.parametrize("name", [*tiny.CLIP_ROWS, "laion_aesthetic"])
def test_a_score_is_the_published_formula(name, folders, rewards, pictures):
    prompts = [*PROMPTS[:4], LONG]
    scores = rewards(name)(pictures, prompts)
    expected = [by_hand(name, folders(name), *pair) for pair in zip(pictures, prompts, strict=True)]
    assert np.ptp(expected) > 1e-3
    assert scores == pytest.approx(expected, rel=2e-5, abs=2e-5)


def test_clipscore_is_not_below_0(folders, rewards, pictures, tmp_path):
    """Under a text tower whose embeddings point the other way, every cosine changes its sign."""
    shutil.copytree(folders("clipscore"), tmp_path / "turned")
    weights = load_file(tmp_path / "turned" / "model.safetensors")
    weights["text_projection.weight"] *= -1
    save_file(weights, tmp_path / "turned" / "model.safetensors", metadata={"format": "pt"})
    turned = REWARDS["clipscore"](str(tmp_path / "turned"))(pictures, PROMPTS)
    assert ((turned == 0) != (rewards("clipscore")(pictures, PROMPTS) == 0)).all()


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_a_batch_is_its_pictures_one_by_one_in_their_order(name, folders, rewards, pictures):
    together = rewards(name)(pictures, PROMPTS)
    fresh = REWARDS[name](str(folders(name)))
    single = [fresh([one], [prompt])[0] for one, prompt in zip(pictures, PROMPTS, strict=True)]
    assert together == pytest.approx(single, rel=1e-5, abs=1e-6)
    assert together.dtype == np.float64
    turned = REWARDS[name](str(folders(name)))(pictures[::-1], PROMPTS[::-1])
    assert turned[::-1] == pytest.approx(together, rel=1e-5, abs=1e-6)
    assert len(set(together.round(6))) > 2


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_equal_pictures_tie_exactly_wherever_they_stand(name, folders, pictures):
    reward = REWARDS[name](str(folders(name)))
    scores = reward([pictures[0], *pictures, pictures[0].copy()], ["a bee"] * 7)
    assert scores[0] == scores[1] == scores[-1]
    assert reward(pictures[:1], ["a bee"])[0] == scores[0]
    assert reward.compare(pictures[:2], [pictures[0], pictures[0]], ["a bee"] * 2)[0] == 0.5


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_another_prompt_is_another_score_where_prompts_are_read(name, rewards, pictures):
    prompts = ("a red cat", "xyz")
    a, b = (rewards(name)(pictures, [prompt] * len(pictures)) for prompt in prompts)
    assert (a != pytest.approx(b, abs=1e-5)) is (name in READS)


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_a_picture_of_any_mode_is_what_it_shows(name, rewards, pictures):
    plain = pictures[2]
    clear = plain.convert("RGBA")
    clear.putalpha(Image.fromarray(np.tile(np.arange(40, dtype=np.uint8) * 6, (57, 1))))
    white = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear).convert("RGB")
    grey = plain.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    palette = plain.quantize(16)
    same = {
        "RGBA": (clear, white),
        "L": (grey, grey.convert("RGB")),
        "16 bits": (deep, grey.convert("RGB")),
        "P": (palette, palette.convert("RGB")),
    }
    score = rewards(name)
    for mode, (one, other) in same.items():
        a, b = score([one, other], ["a bee"] * 2)
        assert a == pytest.approx(b, rel=1e-6, abs=1e-7), mode


def test_transparency_is_said_once(capsys):
    from diffdpo.metrics.pixels import as_rgb, tell_transparent

    tell_transparent.cache_clear()
    for _ in range(2):
        seen = as_rgb(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert seen.getpixel((0, 0)) == (255, 255, 255)
    assert (
        capsys.readouterr().out
        == "note         a picture is transparent: rewards see it on white\n"
    )


def test_the_ends_of_a_wide_picture_count_where_it_is_padded(folders):
    wide = picture(5, (96, 32))
    other = wide.copy()
    other.paste((255, 0, 0), (0, 0, 20, 32))
    for name in (*tiny.CLIP_ROWS, "laion_aesthetic", "imagereward"):
        a, b = REWARDS[name](str(folders("pickscore" if name in tiny.CLIP_ROWS else name)))(
            [wide, other], ["a bee"] * 2
        )
        if name != "clipscore":
            assert bool(a != b) == name.startswith("hps"), name


@pytest.mark.parametrize("name", [name for name in READS if name != "vqascore"])
def test_a_long_prompt_is_cut_and_counted(name, rewards, pictures):
    reward = rewards(name)
    length = 35 if name == "imagereward" else 77
    words = "a " * (length - 2)
    assert reward.too_long([words, words + "b", "a bee", LONG]) == 2
    assert reward.too_long([]) == 0
    # What is cut away is not read, and what is kept is.
    one, other = (words + end for end in (" cat", " dog"))
    a, b, c = reward(pictures[:1] * 3, [one + LONG, one + "x" + LONG, "b" + other + LONG])
    assert a == pytest.approx(b, abs=1e-6)
    if name != "clipscore":
        assert a != pytest.approx(c, abs=1e-6)


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_the_identity_is_of_the_weights_not_of_their_place(name, folders, rewards, tmp_path):
    own = rewards(name).identity
    shutil.copytree(folders(name), tmp_path / "copy")
    assert REWARDS[name](str(tmp_path / "copy")).identity == own
    other = rewards(name, seed=1).identity
    assert {key for key in own if own[key] != other[key]} == {"weights"}
    assert str(folders(name)) not in rewards(name).signature
    assert own["weights"] in rewards(name).signature


def test_settings_and_words_are_part_of_the_identity(folders, tmp_path):
    shutil.copytree(folders("pickscore"), tmp_path / "copy")
    file = tmp_path / "copy" / "config.json"
    config = json.loads(file.read_text())
    config["vision_config"]["hidden_act"] = "relu"
    file.write_text(json.dumps(config))
    words = tmp_path / "copy" / "tokenizer_config.json"
    words.write_text(json.dumps({**json.loads(words.read_text()), "model_max_length": 20}))
    a, b = (REWARDS["pickscore"](str(f)).identity for f in (folders("pickscore"), words.parent))
    assert {key for key in a if a[key] != b[key]} == {"network", "text"}


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_a_lower_precision_is_near_and_named(name, folders, pictures):
    reward = REWARDS[name](str(folders(name)))
    whole = reward(pictures, PROMPTS)
    half = reward.to("cpu", torch.bfloat16)
    low = half(pictures, PROMPTS)
    assert half.identity == {**reward.identity, "precision": "bfloat16"}
    assert (low != whole).any()  # no score of the other precision is given again
    scale = max(1.0, abs(whole).max()) if name != "vqascore" else abs(whole).max()
    assert low == pytest.approx(whole, abs=0.1 * scale)


@pytest.mark.parametrize("name", ["pickscore", "imagereward"])
def test_nothing_of_torchvision_or_remote_code_is_needed(name, rewards):
    rewards(name)
    assert not {"torchvision", "open_clip", "timm"} & set(sys.modules)


def test_32_bits_whose_white_is_unknown_are_an_error_that_names_the_picture(rewards, pictures):
    odd = Image.fromarray(np.full((40, 40), 7, np.int32))
    with pytest.raises(Exception, match=r"--reward pickscore: .*which is white.* for second"):
        judged(
            "pickscore", rewards("pickscore"), ["first", "second"], [pictures[0], odd], ["a"] * 2
        )
