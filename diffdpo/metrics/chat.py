"""Asks an OpenAI-compatible service about pictures, at temperature 0, and keeps its answers."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from diffdpo.engine.files import write_atomically
from diffdpo.errors import UserError, short

LONGEST = 16 << 20  # bytes of an answer that are read


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no answer that points elsewhere: the key is for this service alone."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirect)


@dataclass(frozen=True)
class Question:
    """A text about RGB pictures, which stand before it."""

    text: str
    pictures: tuple[Image.Image, ...]


@dataclass(frozen=True)
class Chat:
    """One model of a service. ``api_key_env`` names the variable of the key; the key itself is read
    at each request and kept nowhere. Each answer is a file in ``cache_dir``, named by the digest of
    all that was asked.
    """

    url: str
    model: str
    system: str
    api_key_env: str | None
    timeout: float
    max_tokens: int
    cache_dir: str

    def ask(self, question: Question) -> str:
        """The answer, from the disk where the same was asked before.

        Raises UserError where the service cannot be reached, takes too long or answers with
        anything but a text.
        """
        path = self.kept_at(question)
        if path.is_file():
            answer: str = json.loads(path.read_text(encoding="utf-8"))["answer"]
            return answer
        answer = self.answer(self.post(self.body(question)))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({"model": self.model, "answer": answer}))
        return answer

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

    def post(self, body: dict[str, Any]) -> Any:
        """What the service answers to a request. Raises UserError where it fails."""
        headers = {"Content-Type": "application/json"}
        if self.api_key_env:
            headers["Authorization"] = f"Bearer {key_in(self.api_key_env)}"
        address = f"{str(self.url).rstrip('/')}/chat/completions"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with OPENER.open(request, timeout=self.timeout) as response:
                content = response.read(LONGEST)
        except urllib.error.HTTPError as error:
            told = short(error.read(LONGEST).decode(errors="replace"))
            raise self.failed(f"{error.code} {error.reason}: {told}") from error
        except TimeoutError as error:
            raise self.failed(f"no answer within {self.timeout:g} seconds") from error
        except (OSError, http.client.HTTPException) as error:
            raise self.failed(short(getattr(error, "reason", error)) or repr(error)) from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise self.failed(f"its answer is no JSON ({short(content)})") from error

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

    def failed(self, reason: str) -> UserError:
        """The line for a question that was not answered."""
        return UserError(
            f"judge {self.model} at {self.url}: {reason}; answers so far are kept, so starting"
            " again asks only for the others"
        )


def key_in(variable: str) -> str:
    """The key in an environment variable. Raises UserError where there is none."""
    if not (key := os.environ.get(variable, "").strip()):
        raise UserError(f"judge: api_key_env {variable}: this environment variable is not set")
    return key


def as_data(picture: Image.Image) -> str:
    """A picture as a PNG in a data URL."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
