"""Official files become folders whose scores are those of the official networks."""

from __future__ import annotations

import hashlib
import json
import pickle
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from diffdpo.cli import main
from diffdpo.errors import UserError
from diffdpo.metrics import REWARDS, convert
from tests.factory import picture
from tests.metrics import tiny
from tests.metrics.originals import (
    imagereward_score,
    imagereward_shapes,
    layer,
    open_clip_cosine,
    open_clip_shapes,
    random_state,
)
from tests.metrics.test_networks import crop, pad

PICTURE, PROMPT = picture(2, (48, 33)), "a red cat"


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    tiny.save_clip(folder / "clip")
    tiny.save_imagereward(folder / "imagereward")
    return folder


@pytest.fixture(autouse=True)
def few_heads(monkeypatch):
    """The tiny networks have fewer heads, which shapes do not tell."""
    two = partial(convert.hps, heads=2)
    few = {"hpsv2": two, "hpsv2.1": two}
    few["imagereward"] = partial(convert.imagereward, heads=(2, 3))
    monkeypatch.setattr(convert, "CONVERSIONS", {**convert.CONVERSIONS, **few})


@torch.no_grad()
def test_hps_of_open_clips_names(bases, tmp_path, capsys):
    state = random_state(open_clip_shapes(32, 24, 16, 514))
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "HPS_v2_compressed.pt")
    words = [tmp_path / "HPS_v2_compressed.pt", tmp_path / "made", "--base", bases / "clip"]
    assert main(["convert_reward", "hpsv2", *map(str, words)]) == 0
    reward = REWARDS["hpsv2"](str(tmp_path / "made"))
    ids = AutoTokenizer.from_pretrained(bases / "clip")(PROMPT, return_tensors="pt").input_ids
    expected = open_clip_cosine(state, pad(PICTURE, None), ids, 2)
    assert reward([PICTURE], [PROMPT])[0] == pytest.approx(expected, abs=1e-5)
    digest = hashlib.sha256(words[0].read_bytes()).hexdigest()
    source = json.loads((tmp_path / "made" / "source.json").read_text())
    assert source == {"reward": "hpsv2", "file": words[0].name, "sha256": digest}
    assert reward.identity["from"] == f"HPS_v2_compressed.pt {digest[:16]}"
    assert reward.signature in capsys.readouterr().out


@torch.no_grad()
def test_imagereward_is_the_original_network(bases, tmp_path):
    """Bidirectional reading, [CLS] in its place, padding unseen, a head without activations."""
    state = random_state(imagereward_shapes(32, 24, 60))
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    torch.save(state, tmp_path / "ImageReward.pt")
    base = bases / "imagereward" / "tokenizer"
    words = [tmp_path / "ImageReward.pt", tmp_path / "made", "--base", base]
    assert main(["convert_reward", "imagereward", *map(str, words)]) == 0
    words = AutoTokenizer.from_pretrained(tmp_path / "made" / "tokenizer")
    assert words.convert_ids_to_tokens([57, 58]) == ["[DEC]", "[ENC]"]
    reward = REWARDS["imagereward"](str(tmp_path / "made"))
    scores = []
    for prompt in (PROMPT, "dog " * 40):
        options = {"padding": "max_length", "truncation": True, "max_length": 35}
        text = AutoTokenizer.from_pretrained(base)(prompt, return_tensors="pt", **options)
        scores.append(
            imagereward_score(
                state, crop(PICTURE, True), text.input_ids, text.attention_mask, (2, 3)
            )
        )
    assert abs(scores[0] - scores[1]) > 1e-3
    assert reward([PICTURE] * 2, [PROMPT, "dog " * 40]) == pytest.approx(scores, abs=1e-5)


def test_laions_five_layers_are_769_numbers(bases, tmp_path):
    widths, shapes = [24, 16, 8, 8, 4, 1], {}
    for number, before, after in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        shapes |= layer(f"layers.{number}", after, before)
    state = random_state(shapes)
    torch.save(state, tmp_path / "head.pth")
    words = [tmp_path / "head.pth", tmp_path / "made", "--base", bases / "clip"]
    assert main(["convert_reward", "laion_aesthetic", *map(str, words)]) == 0
    head = load_file(tmp_path / "made" / "head.safetensors")
    assert {name: tuple(t.shape) for name, t in head.items()} == {"weight": (1, 24), "bias": (1,)}
    x = torch.randn(3, 24, generator=torch.Generator().manual_seed(1))
    whole = x
    for number in (0, 2, 4, 6, 7):
        weight, bias = state[f"layers.{number}.weight"], state[f"layers.{number}.bias"]
        whole = torch.nn.functional.linear(whole, weight, bias)
    assert torch.allclose(x @ head["weight"].T + head["bias"], whole, atol=1e-5)
    assert REWARDS["laion_aesthetic"](str(tmp_path / "made"))([PICTURE], [""]).shape == (1,)


def test_tensors_in_safetensors_are_taken_too(bases, tmp_path):
    state = random_state(open_clip_shapes(32, 24, 16, 514))
    save_file(state, tmp_path / "hps.safetensors")
    convert.convert("hpsv2.1", tmp_path / "hps.safetensors", tmp_path, str(bases / "clip"))
    assert REWARDS["hpsv2.1"](str(tmp_path))([PICTURE], [PROMPT]).shape == (1,)


class Boom:
    def __reduce__(self):
        return print, ("boom",)


def test_a_pickle_of_more_than_tensors_is_not_run(tmp_path, capsys):
    file = tmp_path / "evil.pt"
    file.write_bytes(pickle.dumps({"state_dict": Boom()}))
    assert main(["convert_reward", "hpsv2", str(file), str(tmp_path / "made")]) == 2
    shown = capsys.readouterr()
    assert "boom" not in shown.out
    assert f"error: --file {file}: holds no plain tensors" in shown.err
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "spoil", "line"),
    [
        ("hpsv2", {"visual.head.weight": (2, 2)}, "holds visual.head.weight, which no tensor of"),
        ("hpsv2", {"text_projection": None}, "is not the file of hpsv2 .*text_projection"),
        ("hpsv2", {"ln_final.weight": None}, "lacks 1 of the network's weights .*final_layer_norm"),
        ("imagereward", {}, "is not the file of imagereward"),
        ("laion_aesthetic", {}, "is not the file of laion_aesthetic"),
    ],
)
def test_another_file_is_one_line(bases, tmp_path, capsys, name, spoil, line):
    shapes = {**open_clip_shapes(32, 24, 16, 514), **spoil}
    state = random_state({key: shape for key, shape in shapes.items() if shape is not None})
    torch.save(state, tmp_path / "some.pt")
    words = [name, tmp_path / "some.pt", tmp_path / "made", "--base", bases / "clip"]
    assert main(["convert_reward", *map(str, words)]) == 2
    with pytest.raises(UserError, match=line):
        raise UserError(*capsys.readouterr().err.splitlines())
    assert not (tmp_path / "made").exists()


def test_words_that_are_missing_or_wrong_are_asked_for(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    words = ["hps", str(tmp_path / "no.pt"), str(tmp_path / "there")]
    assert main(["convert_reward", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "--name 'hps' is unknown; known: hpsv2, hpsv2.1" in lines[0]
    assert lines[1].endswith("no.pt: no such file")
    assert lines[2].endswith("is there already; choose another")
    assert main(["convert_reward", "hpsv2"]) == 2
    assert "NAME FILE FOLDER" in capsys.readouterr().err
