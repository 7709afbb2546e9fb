"""A folder that is no reward's is one line that says what is wrong there."""

from __future__ import annotations

import contextlib
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffdpo.errors import UserError
from diffdpo.metrics import REWARDS, clip, weights
from tests.metrics import tiny

WEIGHTS, HEAD = "model.safetensors", "head.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name in ("pickscore", "laion_aesthetic", "imagereward", "vqascore"):
        tiny.SAVE[name](folder / name)
    return folder


def rewritten(path, **changes):
    tensors = load_file(path)
    for name, value in changes.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = value
    save_file(tensors, path, metadata={"format": "pt"})


def renamed_config(folder, file="config.json", **changes):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def pickled(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


SPOILT = {
    "no weights": ("pickscore", lambda f: (f / WEIGHTS).unlink(), "model.safetensors is missing"),
    "a pickle": ("pickscore", pickled, "holds pytorch_model.bin, which is pickled and not read"),
    "no config": ("pickscore", lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "no tokenizer": (
        "pickscore", lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is missing"
    ),
    "half a file": (
        "pickscore", lambda f: (f / WEIGHTS).write_bytes(b"\0" * 9), "cannot be loaded"
    ),
    "a weight too few": (
        "pickscore",
        lambda f: rewritten(f / WEIGHTS, **{"text_projection.weight": None}),
        "lacks 1 of the network's weights .text_projection",
    ),
    "a weight too many": (
        "pickscore",
        lambda f: rewritten(f / WEIGHTS, **{"head.weight": torch.ones(2)}),
        "holds 1 weights that the network has no place for .head.weight",
    ),
    "another shape": (
        "pickscore",
        lambda f: rewritten(f / WEIGHTS, **{"text_projection.weight": torch.ones(2, 3)}),
        "cannot be loaded",
    ),
    "not finite": (
        "pickscore",
        lambda f: rewritten(f / WEIGHTS, **{"logit_scale": torch.tensor(torch.nan)}),
        "1 of its weights are not finite .logit_scale",
    ),
    "a vocabulary of another": (
        "pickscore",
        lambda f: renamed_config(f, text_config={"vocab_size": 100}),
        "cannot be loaded|its tokenizer has 514 words, and the network 100",
    ),
    "a network of another kind": (
        "pickscore", lambda f: renamed_config(f, model_type="siglip"), "of a siglip, and a clip is"
    ),
    "no head": (
        "laion_aesthetic", lambda f: (f / HEAD).unlink(), "head.safetensors is missing"
    ),
    "a head of other numbers": (
        "laion_aesthetic",
        lambda f: rewritten(f / HEAD, weight=torch.ones(1, 768)),
        "head.safetensors holds bias 1, weight 1x768; needed: bias 1, weight 1x24",
    ),
    "a head of nan": (
        "laion_aesthetic",
        lambda f: rewritten(f / HEAD, bias=torch.tensor([torch.nan])),
        "head.safetensors: bias is not finite",
    ),
    "no text model": (
        "imagereward", lambda f: shutil.rmtree(f / "text_model"), "text_model: config.json is"
    ),
    "a text model that sees nothing": (
        "imagereward",
        lambda f: renamed_config(f / "text_model", is_decoder=False),
        "holds 20 weights that the network has no place for .*crossattention",
    ),
    "a layer missing": (
        "imagereward",
        lambda f: rewritten(f / HEAD, **{"layers.4.bias": None}),
        "needed: layers.N.weight and layers.N.bias of linear layers from 24 numbers to 1",
    ),
    "no chat template": (
        "vqascore", lambda f: (f / "chat_template.jinja").unlink(), "has no chat template"
    ),
    "no processor": (
        "vqascore", lambda f: (f / "preprocessor_config.json").unlink(), "its processor cannot be"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_folder_is_one_line(case, whole, tmp_path):
    name, spoil, line = SPOILT[case]
    folder = tmp_path / "spoilt"
    shutil.copytree(whole / name, folder)
    spoil(folder)
    with pytest.raises(UserError, match=line) as caught:
        REWARDS[name](str(folder))
    assert all(told.startswith(f"--reward_model {name}={folder}") for told in caught.value.mistakes)
    assert max(map(len, caught.value.mistakes)) < 600


@pytest.mark.parametrize("name", tiny.WITH_WEIGHTS)
def test_where_nothing_is_named_the_line_says_what_to_give(name):
    with pytest.raises(UserError, match=rf"--reward {name}: .*--reward_model {name}=FOLDER, which"):
        REWARDS[name]()


def test_no_such_folder_and_no_such_hub_id():
    with pytest.raises(UserError, match=r"^--reward_model pickscore=/no/such: no such folder$"):
        REWARDS["pickscore"]("/no/such")
    with pytest.raises(UserError, match="no/such is not on this machine"):
        REWARDS["pickscore"]("no/such")


def test_a_path_is_refused_where_there_are_no_weights(tmp_path):
    with pytest.raises(UserError, match="colourfulness has no weights; leave it out"):
        REWARDS["colourfulness"](str(tmp_path))


def test_the_aesthetic_tower_may_be_that_of_a_whole_clip(whole, tmp_path):
    shutil.copytree(whole / "pickscore", tmp_path / "both")
    save_file(
        {"weight": torch.ones(1, 24), "bias": torch.zeros(1)},
        tmp_path / "both" / "head.safetensors",
    )
    reward = REWARDS["laion_aesthetic"](str(tmp_path / "both"))
    assert reward.identity["network"].startswith("CLIPVisionModelWithProjection")


def test_a_rows_own_ids_are_fetched_without_pickles_and_the_tokenizer_without_weights(
    whole, monkeypatch
):
    asked = []

    def fetch(name, allow_patterns):
        asked.append((name, [p for p in allow_patterns if "safetensors" in p]))
        assert not [p for p in allow_patterns if p.endswith((".bin", ".pt", ".py")) or p == "*"]
        return whole / "pickscore"

    monkeypatch.setattr(weights, "snapshot_download", fetch)
    REWARDS["pickscore"]()
    hub, words = clip.ROWS["pickscore"].hub, clip.ROWS["pickscore"].words
    assert asked == [(hub, ["*.safetensors"]), (words, [])]
    asked.clear()
    REWARDS["pickscore"]("someone/else")
    assert asked == [("someone/else", ["*.safetensors"])]


@pytest.mark.parametrize(
    "part", ["config.json", "tokenizer_config.json", "preprocessor_config.json"]
)
def test_code_in_a_folder_is_not_run_whatever_is_answered(
    part, whole, tmp_path, monkeypatch, capsys
):
    shutil.copytree(whole / "vqascore", tmp_path / "own")
    (tmp_path / "own" / "evil.py").write_text("print('ran')\nraise SystemExit\n")
    names = ("AutoConfig", "AutoModelForImageTextToText", "AutoImageProcessor", "AutoProcessor")
    own = dict.fromkeys(names, "evil.Evil") | {"AutoTokenizer": ["evil.Evil", None]}
    changes = {"model_type": "x", "tokenizer_class": "x", "image_processor_type": "x"}
    renamed_config(tmp_path / "own", part, auto_map=own, **changes)
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    with contextlib.suppress(UserError):
        REWARDS["vqascore"](str(tmp_path / "own"))
    assert "ran" not in capsys.readouterr().out.split()
