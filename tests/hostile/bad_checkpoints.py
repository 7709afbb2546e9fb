"""Folders to write to and runs to go on with that cannot be right."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffdpo.engine.checkpoint_state import WITHOUT_DIGESTS, seal
from diffdpo.engine.run_folder import save_yaml
from diffdpo.text.settings import TextSettings
from tests.hostile.case import Bad, Material

Spoil = Callable[[Path], object]


def checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint of one weight, whole."""
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"w": torch.zeros(2)}, path / "trainable.safetensors")
    tensors = {"0.step": torch.tensor(4.0), "0.exp_avg": torch.zeros(2)}
    save_file(tensors | {"0.exp_avg_sq": torch.zeros(2)}, path / "optimizer.safetensors")
    rest = {"settings": {"output_dir": str(folder)}, "effective_batch": 4, "data": "d"}
    seal(path, {"step": step, **rest, "optimizer": {"values": {}, "param_groups": []}})
    return path


def command(material: Material, out: object, *words: object) -> list[str]:
    base = ["--model_name_or_path", material.lm, "--dataset_name", material.texts["pairs"]]
    base += ["--output_dir", out, "--report_to", "none", *words]
    return [*map(str, base)]


def run(*spoils: Spoil, resume: str | None = "latest", step: int = 4):
    """A run of one checkpoint, spoiled, that is to go on."""

    def make(material: Material) -> list[str]:
        out = material.folder / "run"
        checkpoint(out, step)
        save_yaml(TextSettings(output_dir=str(out), checkpointing_steps=2), out / "config.yaml")
        lines = "".join(json.dumps({"step": n + 1}) + "\n" for n in range(step))
        (out / "metrics.jsonl").write_text(lines)
        for spoil in spoils:
            spoil(out)
        return command(material, out, *(["--resume_from_checkpoint", resume] if resume else []))

    return make


def output(out: str, *spoils: Spoil, words: tuple[str, ...] = ()):
    """A new run in the folder ``out``, below the case's own folder."""

    def make(material: Material) -> list[str]:
        for spoil in spoils:
            spoil(material.folder)
        return command(material, material.folder / out, *words)

    return make


def state(**changes: object) -> Spoil:
    """Fields of state.json as an earlier version wrote it, without digests; None removes one."""

    def spoil(out: Path) -> None:
        file = out / "checkpoint-4" / "state.json"
        fields = {**json.loads(file.read_text()), "digest": None, "files": None}
        fields |= {"format": WITHOUT_DIGESTS, **changes}
        file.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))

    return spoil


def flip(name: str, place: float = 0.7) -> Spoil:
    """One bit of a file of the run."""

    def spoil(out: Path) -> None:
        content = bytearray((out / name).read_bytes())
        content[int(place * len(content))] ^= 16
        (out / name).write_bytes(content)

    return spoil


def write(name: str, content: bytes | str) -> Spoil:
    def spoil(out: Path) -> None:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def folder(name: str) -> Spoil:
    return lambda out: (out / name).mkdir(parents=True)


def link(name: str, target: str) -> Spoil:
    return lambda out: (out / name).symlink_to(target)


def delete(name: str) -> Spoil:
    return lambda out: (out / name).unlink()


def without_checkpoint(out: Path) -> None:
    for file in (out / "checkpoint-4").iterdir():
        file.unlink()
    (out / "checkpoint-4").rmdir()


def lock_it(out: Path) -> None:
    """As another process would; the descriptor stays open as long as this one lives."""
    out.mkdir(exist_ok=True)
    descriptor = os.open(out / ".run.lock", os.O_RDWR | os.O_CREAT)
    os.pwrite(descriptor, b'{"host": "node7", "process": 12, "started": "5"}', 0)
    fcntl.flock(descriptor, fcntl.LOCK_EX)


def inside_data(material: Material) -> list[str]:
    data = material.folder / "data"
    data.mkdir()
    (data / "train.jsonl").write_bytes(material.texts["pairs"].read_bytes())
    return [*command(material, data / "run"), "--dataset_name", str(data)]


def is_model(material: Material) -> list[str]:
    return command(material, material.lm)


def adapter_base(material: Material) -> list[str]:
    write("a/adapter_config.json", '{"base_model_name_or_path": "base"}')(material.folder)
    (material.folder / "base").mkdir()
    return [*command(material, "base"), "--model_name_or_path", "a"]


def pipeline_folder(material: Material) -> list[str]:
    words = ["--pretrained_model_name_or_path", material.models(), "--dataset_name", material.pairs]
    return [
        *map(str, words),
        "--output_dir",
        str(material.models() / "unet"),
        "--report_to",
        "none",
    ]


def shelved(material: Material) -> list[str]:
    """A checkpoint of one run, in the folder of another."""
    words = run(resume=None)(material)
    other = checkpoint(material.folder / "other", 4)
    return [*words, "--resume_from_checkpoint", str(other)]


TRAIN = "train_text_dpo"
LATEST = ("--resume_from_checkpoint", "latest")
DAMAGED = r"\S+checkpoint-4\S+: damaged"
NO_FORM = r"\S+checkpoint-4: not a checkpoint of diffdpo"
OTHER = r"--output_dir \S+: holds another run"
OURS = r"--output_dir \S+: "

CASES = [
    Bad("a bit of the weights", TRAIN, run(flip("checkpoint-4/trainable.safetensors")), DAMAGED),
    Bad("a bit of the optimizer", TRAIN, run(flip("checkpoint-4/optimizer.safetensors")), DAMAGED),
    Bad("a bit of the state", TRAIN, run(flip("checkpoint-4/state.json", 0.5)), ".*checkpoint-4"),
    Bad("weights are missing", TRAIN, run(delete("checkpoint-4/trainable.safetensors")), DAMAGED),
    Bad("an empty file", TRAIN, run(write("checkpoint-4/optimizer.safetensors", "")), DAMAGED),
    Bad("no state", TRAIN, run(delete("checkpoint-4/state.json")), NO_FORM),
    Bad("a state that is no JSON", TRAIN, run(write("checkpoint-4/state.json", "{")), NO_FORM),
    Bad("a state of bytes", TRAIN, run(write("checkpoint-4/state.json", b"\xff\0")), NO_FORM),
    Bad("a state that is a list", TRAIN, run(write("checkpoint-4/state.json", "[1]")), NO_FORM),
    Bad("a deep state", TRAIN, run(write("checkpoint-4/state.json", "[" * 10**5)), NO_FORM),
    Bad("another format", TRAIN, run(state(format="diffdpo checkpoint 9")), NO_FORM),
    Bad("no settings in the state", TRAIN, run(state(settings=None)), r".*no usable settings"),
    Bad("no step in the state", TRAIN, run(state(step=None)), r".*no usable step"),
    Bad("a step that is a word", TRAIN, run(state(step="four")), r".*no usable step"),
    Bad("a step below zero", TRAIN, run(state(step=-3)), r".*no usable step"),
    Bad("another step than its name", TRAIN, run(state(step=10**12)), r".*holds checkpoint-10{12}"),
    Bad("no optimizer in the state", TRAIN, run(state(optimizer=[])), r".*no usable optimizer"),
    Bad("a batch that is a list", TRAIN, run(state(effective_batch=[4])), r".*effective_batch"),
    Bad("data that are a number", TRAIN, run(state(data=4)), r".*no usable data"),
    Bad("a scaler that is a word", TRAIN, run(state(scaler="x")), r".*no usable scaler"),
    Bad("another's checkpoint alone", TRAIN,
        output("run", folder("run/checkpoint-1000"), words=LATEST),
        r"\S+checkpoint-1000: not a checkpoint of diffdpo"),
    Bad("a file as a checkpoint", TRAIN,
        output("run", write("run/checkpoint-4", "x"), words=LATEST),
        NO_FORM),
    Bad("a link to nowhere as a checkpoint", TRAIN,
        output("run", folder("run"), link("run/checkpoint-4", "no"),
               words=LATEST), NO_FORM),
    Bad("no such checkpoint", TRAIN, run(resume="checkpoint-5"), r".*no such checkpoint"),
    Bad("the checkpoint of another run", TRAIN, shelved, r".*holds another run than that of"),
    Bad("no resume was asked for", TRAIN, run(resume=None), OTHER),
    Bad("a finished run without checkpoints", TRAIN,
        run(without_checkpoint, write("model.safetensors", "x")), OTHER + ", of which no"),
    Bad("many steps without a checkpoint", TRAIN,
        run(without_checkpoint, write("metrics.jsonl", '{"step": 1}\n' * 5)), OTHER),
    Bad("a broken line in the metrics", TRAIN,
        run(write("metrics.jsonl", '{"step": 1}\nbroken\n{"step": 3}\n')),
        r"\S+metrics.jsonl, line 2: is not the record of a step \(broken\)"),
    Bad("metrics of bytes", TRAIN, run(write("metrics.jsonl", b"\x80\xff\n" * 3)), r".*line 1"),
    Bad("metrics without steps", TRAIN, run(write("metrics.jsonl", '{"loss": 1}\n')), r".*line 1"),
    Bad("metrics that are a folder", TRAIN, run(delete("metrics.jsonl"), folder("metrics.jsonl")),
        r"\S+metrics.jsonl: is a folder"),
    Bad("a folder in use", TRAIN, run(lock_it), OURS + r"process 12 on node7 trains in it"),
    Bad("a new run in a folder in use", TRAIN, output("run", lambda at: lock_it(at / "run")),
        OURS + r"process 12 on node7 trains in it"),
    Bad("weights of the user", TRAIN, output("run", write("run/model.safetensors", "x")), OTHER),
    Bad("a tokenizer of the user", TRAIN, output("run", write("run/tokenizer.json", "{}")),
        OURS + r"holds tokenizer.json, which the run would replace"),
    Bad("a config.yaml of the user", TRAIN,
        output("run", write("run/config.yaml", "x: 1"), words=LATEST),
        OURS + r"holds config.yaml, which the run would replace"),
    Bad("the model's folder", TRAIN, is_model, OURS + r"is the folder of --model_name_or_path"),
    Bad("the folder of an adapter's base", TRAIN, adapter_base, OURS + r"is the folder of"),
    Bad("inside the pipeline", "train_diffusion_dpo", pipeline_folder,
        OURS + r"lies inside the folder of --pretrained_model_name_or_path"),
    Bad("inside the data", TRAIN, inside_data, OURS + r"lies inside the folder of --dataset_name"),
    Bad("a loop of links", TRAIN, output("a", link("a", "b"), link("b", "a")),
        OURS + r"is a link that leads nowhere"),
    Bad("a link to nowhere", TRAIN, output("a", link("a", "b")), OURS + r"is a link that leads"),
    Bad("a device", TRAIN, output("/dev/null"), OURS + r"is there and is not a folder"),
    Bad("below a file", TRAIN, output("f/run", write("f", "")), OURS + r"cannot be written \("),
    Bad("bytes that are no text", TRAIN, output(os.fsdecode(b"a\xff")), r".*is not UTF-8 text"),
    Bad("a zero in the name", TRAIN, output("a\0b"), r"--output_dir holds a null byte"),
]  # fmt: skip
