"""Results of text runs to judge that are none, name too much, no service, or instructions of no
kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.hostile.bad_results import run_folder
from tests.hostile.case import Bad, Material

TEXT = "evaluate_text"
Make = Callable[[Material], list[str]]
SERVICE = ("--generator_url", "http://127.0.0.1:9/v1")


def text_result(*words: str, policy: str | None = None, **files: str | bytes) -> Make:
    """An evaluation of a folder that holds these files, or of the tiny model itself."""

    def make(material: Material) -> list[str]:
        folder = policy or (run_folder(material, **files) if files else material.lm)
        base = ["--policy", folder, "--output_dir", material.folder / "out", "--split", "train"]
        base += ["--model_name_or_path", material.lm, "--dataset_name", material.texts["pairs"]]
        base += ["--num_prompts", "2", "--samples_per_prompt", "1", "--max_new_tokens", "2"]
        return [*map(str, base), *words]

    return make


def run_that_names_code(material: Material) -> list[str]:
    """An evaluation by what a run recorded, which names a format in a file."""
    run = {"model_name_or_path": str(material.lm), "dataset_name": str(material.texts["pairs"])}
    lines = [f"{name}: {value}" for name, value in run.items()]
    folder = run_folder(material, config__yaml="\n".join([*lines, "data_format: own.py:FORMAT"]))
    return ["--policy", str(folder)]


def broken_model(material: Material) -> list[str]:
    """An evaluation of the tiny language model with one weight spoilt."""
    folder = material.folder / "broken"
    shutil.copytree(material.lm, folder)
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    weights[name].flat[0] = np.inf
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return text_result(policy=str(folder))(material)


def twice(material: Material) -> list[str]:
    """One result as two policies."""
    return text_result("--policy", str(material.lm), str(material.lm))(material)


def asked(**row: Any) -> Make:
    """Prompts of one row with instructions."""

    def make(material: Material) -> list[str]:
        path = material.folder / "asked.jsonl"
        path.write_text(json.dumps(row) + "\n")
        return text_result("--prompts_name", str(path))(material)

    return make


def judged(content: str) -> Make:
    """A judge whose file has this content."""

    def make(material: Material) -> list[str]:
        path = material.folder / "judge.yaml"
        path.write_text(content)
        return text_result("--reward", "judge", "--reward_model", f"judge={path}")(material)

    return make


CASES = [
    Bad(
        "a text result that is not there",
        TEXT,
        text_result(policy="runs/nothing"),
        ".*no such folder",
    ),
    Bad("a checkpoint", TEXT, text_result(trainable__safetensors=""), ".*is a checkpoint"),
    Bad(
        "an infinite weight",
        TEXT,
        broken_model,
        "--policy .*broken: 1 of its weights are not finite",
    ),
    Bad(
        "code that the run names",
        TEXT,
        run_that_names_code,
        ".*config.yaml: data_format own.py:FORMAT is code; if you trust it, give --data_format",
    ),
    Bad("no result yet", TEXT, text_result(config__yaml="beta: 1\n"), ".*has no result"),
    Bad(
        "texts longer than the model reads",
        TEXT,
        text_result("--max_new_tokens", "100000"),
        "--max_new_tokens 100000: after the longest prompt, .* tokens, that is more than the",
    ),
    Bad(
        "a thousand million texts",
        TEXT,
        text_result("--samples_per_prompt", "1000000000"),
        "2,000,000,000 continuations of up to 2 tokens need .* GiB of memory",
    ),
    Bad("a policy named twice", TEXT, twice, "--policy .*: is named twice"),
    Bad(
        "a model of no service",
        TEXT,
        text_result("--generator_model", "base", "mine"),
        "--generator_model: of which service\\? give --generator_url",
    ),
    Bad(
        "a service that is a file",
        TEXT,
        text_result("--generator_url", "file:///etc/passwd"),
        "--generator_url file:///etc/passwd: is no URL such as",
    ),
    Bad(
        "one name for two models",
        TEXT,
        text_result(*SERVICE, "--generator_model", "mine"),
        "--generator_model: 1 names for a reference and 1 policies; give 2",
    ),
    Bad("no service there", TEXT, text_result(*SERVICE), "generator .* at .*refused"),
    Bad(
        "no key there",
        TEXT,
        text_result(*SERVICE, "--generator_api_key_env", "NO_SUCH_KEY"),
        "generator: api_key_env NO_SUCH_KEY: this environment variable is not set",
    ),
    Bad(
        "no time to answer",
        TEXT,
        text_result(*SERVICE, "--generator_timeout", "0"),
        "--generator_timeout must be above 0",
    ),
    Bad(
        "an unknown instruction",
        TEXT,
        asked(prompt="a", instructions=[{"name": "rhymes"}]),
        "data: row 0: instructions: 'rhymes' is no instruction; known: words",
    ),
    Bad(
        "instructions without prompt",
        TEXT,
        asked(question="a", instructions=[{"name": "json"}]),
        "data: a column instructions needs a column prompt beside it",
    ),
    Bad(
        "instructions for nobody",
        TEXT,
        asked(prompt="", instructions=[{"name": "json"}]),
        "data: row 0: prompt must be text or a conversation",
    ),
    Bad("a judge without service", TEXT, judged("model: tiny\n"), ".*judge.yaml: url: the base of"),
    Bad("a judge of no file", TEXT, text_result("--reward", "judge"), "--reward judge: which ser"),
]
