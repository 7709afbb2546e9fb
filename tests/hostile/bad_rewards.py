"""Rewards whose weights, files and services are not what they must be."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch
from safetensors.numpy import save_file

from tests.hostile.case import Bad, Material
from tests.metrics import tiny

Make = Callable[[Material], list[str]]


def pairs(*words: str) -> Make:
    """Pairs to be made from a good model, by the rewards that the words name."""

    def make(material: Material) -> list[str]:
        base = ["--pretrained_model_name_or_path", material.models()]
        base += ["--dataset_name", material.pairs, "--output_dir", material.folder / "new"]
        return [*map(str, base), *words]

    return make


def named(name: str, fill: Callable[[Material], None]) -> Make:
    """The same by the reward ``name``, with the weights in a folder that ``fill`` has spoilt."""

    def make(material: Material) -> list[str]:
        fill(material)
        return pairs("--reward", name, "--reward_model", f"{name}=./weights")(material)

    return make


def empty(material: Material) -> None:
    (material.folder / "weights").mkdir()


def pickled(material: Material) -> None:
    empty(material)
    (material.folder / "weights" / "config.json").write_text('{"model_type": "clip"}')
    torch.save({}, material.folder / "weights" / "pytorch_model.bin")


def without(*names: str) -> Callable[[Material], None]:
    """A good folder of CLIP without these files."""

    def fill(material: Material) -> None:
        for name in names:
            (tiny.save_clip(material.folder / "weights") / name).unlink()

    return fill


def nonsense(material: Material) -> None:
    (tiny.save_clip(material.folder / "weights") / "config.json").write_text("{")


def deep(material: Material) -> None:
    path = tiny.save_clip(material.folder / "weights") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "text_config": [1]}))


def code_of_its_own(material: Material) -> None:
    """A folder that asks for its own class: nothing of it is run."""
    path = tiny.save_qwen(material.folder / "weights") / "config.json"
    own = {"AutoModelForImageTextToText": "evil.Evil", "AutoConfig": "evil.Config"}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "model_type": "x", "auto_map": own})
    )
    (material.folder / "weights" / "evil.py").write_text("raise SystemExit('ran')")


def wide_head(material: Material) -> None:
    head = {"weight": np.ones((1, 768), np.float32), "bias": np.zeros(1, np.float32)}
    save_file(head, tiny.save_laion(material.folder / "weights") / "head.safetensors")


def judge(**settings: object) -> Make:
    """The same by a judge with these settings in its file."""

    def make(material: Material) -> list[str]:
        (material.folder / "judge.yaml").write_text(json.dumps(settings))
        return pairs("--reward", "judge", "--reward_model", "judge=./judge.yaml")(material)

    return make


PAIRS, PLACE = "make_pairs", "--reward_model {}=./weights: "

CASES = [
    Bad("weights of no reward", PAIRS, pairs("--reward_model", "pickscore=./x"), ".*not among --r"),
    Bad(
        "weights without a name",
        PAIRS,
        pairs("--reward", "pickscore", "--reward_model", "./x"),
        "--reward_model ./x: is not of the form NAME=PATH",
    ),
    Bad(
        "weights that are not there",
        PAIRS,
        pairs("--reward", "hpsv2", "--reward_model", "hpsv2=./x"),
        "--reward_model hpsv2=./x: no such file or folder",
    ),
    Bad(
        "weights on the hub, which is not reached",
        PAIRS,
        pairs("--reward", "pickscore"),
        "--reward pickscore: yuvalkirstain/PickScore_v1 is not on this machine",
    ),
    Bad(
        "weights that the hub has only pickled",
        PAIRS,
        pairs("--reward", "hpsv2.1"),
        "--reward hpsv2.1: no weights of it on the hub can be read as they are",
    ),
    Bad("an empty folder", PAIRS, named("hpsv2", empty), PLACE.format("hpsv2") + "config.json is"),
    Bad(
        "pickled weights", PAIRS, named("clipscore", pickled), ".*pytorch_model.bin, which is pick"
    ),
    Bad(
        "no tokenizer", PAIRS, named("clipscore", without("tokenizer.json")), ".*tokenizer.json is"
    ),
    Bad("no JSON in config.json", PAIRS, named("pickscore", nonsense), ".*cannot be loaded"),
    Bad("a list in config.json", PAIRS, named("pickscore", deep), ".*cannot be loaded"),
    Bad("code of its own", PAIRS, named("vqascore", code_of_its_own), ".*cannot be loaded"),
    Bad(
        "a head of other width", PAIRS, named("laion_aesthetic", wide_head), ".*needed: bias 1, we"
    ),
    Bad("no judge's file", PAIRS, pairs("--reward", "judge"), "--reward judge: which service"),
    Bad("a judge of no model", PAIRS, judge(url="http://127.0.0.1:9"), ".*judge.yaml: model: the"),
    Bad(
        "a judge that is a file", PAIRS, judge(url="file:///etc/passwd", model="x"), ".*: url: the"
    ),
    Bad(
        "a judge of nan", PAIRS, judge(url="http://a/", model="x", timeout=float("nan")), ".*finite"
    ),
    Bad(
        "another's file of weights",
        "convert_reward",
        lambda material: ["hpsv2", str(material.texts["pairs"]), "made"],
        "--file .*: holds no plain tensors",
    ),
]
