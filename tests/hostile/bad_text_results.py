"""Evaluations of language models that name too much, no service, or instructions of no kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.hostile.bad_results import text_result
from tests.hostile.case import Bad, Material

TEXT = "evaluate_text"
Make = Callable[[Material], list[str]]
SERVICE = ("--generator_url", "http://127.0.0.1:9/v1")


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
