"""Posts to a service of OpenAI's form, such as vLLM or sglang."""

from __future__ import annotations

import http.client
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any, ClassVar

from diffdpo.errors import UserError, short

LONGEST = 16 << 20  # bytes of an answer that are read


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no answer that points elsewhere: the key is for this service alone."""

    def redirect_request(self, *arguments: Any, **options: Any) -> None:
        return None


OPENER = urllib.request.build_opener(NoRedirect)


@dataclass(frozen=True)
class Service:
    """One model of a service, of which an answer may take ``timeout`` seconds. ``api_key_env``
    names the variable of the key; the key itself is read at each request and kept nowhere."""

    url: str
    model: str
    api_key_env: str | None
    timeout: float
    role: ClassVar[str] = "service"  # what it is in error lines
    advice: ClassVar[str] = ""  # that such a line ends with

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """What the service answers to a request. Raises UserError where it fails."""
        headers = {"Content-Type": "application/json"}
        if self.api_key_env:
            headers["Authorization"] = f"Bearer {self.key(self.api_key_env)}"
        address = f"{str(self.url).rstrip('/')}/{path}"
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

    def key(self, variable: str) -> str:
        """The key in an environment variable. Raises UserError where there is none."""
        if not (key := os.environ.get(variable, "").strip()):
            raise UserError(
                f"{self.role}: api_key_env {variable}: this environment variable is not set"
            )
        return key

    def failed(self, reason: str) -> UserError:
        """The line for a request that was not answered."""
        return UserError(f"{self.role} {self.model} at {self.url}: {reason}{self.advice}")
