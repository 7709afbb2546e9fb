"""Asks an OpenAI-compatible service about pictures or texts at temperature 0, and keeps the
answers."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from diffdpo.engine.digests import text_digest
from diffdpo.engine.files import write_atomically
from diffdpo.errors import short
from diffdpo.metrics.service import Service


@dataclass(frozen=True)
class Question:
    """A text, and the RGB pictures before it that it may be about."""

    text: str
    pictures: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Chat(Service):
    """A model that is asked. Each answer is a file in ``cache_dir``, named by the digest of all
    that was asked."""

    system: str
    max_tokens: int
    cache_dir: str
    role: ClassVar[str] = "judge"
    advice: ClassVar[str] = "; answers so far are kept, so starting again asks only for the others"

    def ask(self, question: Question) -> str:
        """The answer, from the disk where the same was asked before.

        Raises UserError where the service cannot be reached, takes too long or answers with
        anything but a text.
        """
        path = self.kept_at(question)
        if path.is_file():
            answer: str = json.loads(path.read_text(encoding="utf-8"))["answer"]
            return answer
        answer = self.answer(self.post("chat/completions", self.body(question)))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"model": self.model, "answer": answer}))
        return answer

    def identity(self, asked: str, **more: str) -> dict[str, str]:
        """What the numbers of a judge depend on who is ``asked`` so, with what is told besides."""
        return {
            # Two services may call different weights by one name.
            "model": f"{self.model} at {text_digest(self.url)[:8]}",
            "rubric": text_digest(self.system + asked)[:16],
            **more,
            "scale": "1 to 10 at temperature 0",
        }

    def kept_at(self, question: Question) -> Path:
        """The file of the answer to a question."""
        told = [self.url, self.model, self.system, self.max_tokens, question.text]
        digest = hashlib.sha256(json.dumps(told).encode())
        for picture in question.pictures:
            digest.update(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
        name = digest.hexdigest()
        return Path(self.cache_dir).expanduser() / name[:2] / f"{name}.json"

    def body(self, question: Question) -> dict[str, Any]:
        """The request for a question."""
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": as_data(picture)}}
            for picture in question.pictures
        ]
        content.append({"type": "text", "text": question.text})
        messages = [
            {"role": "system", "content": self.system},
            {"role": "user", "content": content},
        ]
        told = {"model": self.model, "messages": messages}
        return {**told, "temperature": 0, "max_tokens": self.max_tokens}

    def answer(self, response: Any) -> str:
        """The text in a response. Raises UserError where there is none, or not all of it."""
        try:
            choice = response["choices"][0]
            text, end = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self.failed(f"its answer has no choices ({short(response)})") from error
        if end == "length":
            raise self.failed(f"its answer is longer than max_tokens {self.max_tokens}")
        if not isinstance(text, str):
            raise self.failed("its answer holds no text")
        return text


def as_data(picture: Image.Image) -> str:
    """A picture as a PNG in a data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
