"""Continuations from a service of OpenAI's form that has the models, vLLM for example."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

from tqdm.auto import tqdm

from diffdpo.metrics.service import Service
from diffdpo.text.sampling.generate import Ends, SampleSettings, uniforms

AT_ONCE = 32  # requests: the service makes its own batches


@dataclass(frozen=True)
class Continuation:
    """What a service wrote after a prompt; its tokens are None where it does not tell them."""

    text: str
    tokens: list[int] | None


@dataclass(frozen=True)
class ServedModel(Service):
    """A model that continues prompts of tokens at temperature 1, without cuts of its
    distribution as far as the service's own settings allow."""

    role: ClassVar[str] = "generator"

    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        ends: Ends,
        settings: SampleSettings,
        title: str = "",
    ) -> list[Continuation]:
        """``settings.visits`` continuations of every prompt, those of one prompt side by side, as
        ``sample`` has them; each from a seed of its own.

        Raises UserError where the service fails, or answers anything but a continuation.
        """
        asked = [(prompt, visit) for prompt in prompts for visit in range(settings.visits)]

        def one(row: tuple[Sequence[int], int]) -> Continuation:
            return self.read(self.post("completions", self.body(*row, settings)), ends)

        with ThreadPoolExecutor(AT_ONCE) as pool:
            try:
                rows = pool.map(one, asked)
                return list(
                    tqdm(rows, desc=title, total=len(asked), unit="text", disable=not title)
                )
            except BaseException:  # Ctrl-C as well: what is not asked yet stays so
                pool.shutdown(cancel_futures=True)
                raise

    def body(self, prompt: Sequence[int], visit: int, settings: SampleSettings) -> dict[str, Any]:
        """The request for one continuation."""
        # As tokens: a text would be tokenised again, and perhaps begun twice.
        (number,) = uniforms(settings.seed, prompt, visit, 1, settings.purpose)
        return {
            "model": self.model,
            "prompt": [int(token) for token in prompt],
            "max_tokens": settings.max_new_tokens,
            "temperature": 1,
            "top_p": 1,
            "seed": int(number * 2**31),
            "return_token_ids": True,
        }

    def read(self, response: Any, ends: Ends) -> Continuation:
        """The continuation in a response. Raises UserError where there is none."""
        try:
            choice = response["choices"][0]
            text, reason = choice["text"], choice.get("finish_reason")
            tokens = choice.get("token_ids")
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise self.failed("its answer has no text among its choices") from error
        if not isinstance(text, str) or reason not in ("stop", "length"):
            raise self.failed("its answer is no continuation that ends with stop or length")
        if tokens is None:
            return Continuation(text, None)
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise self.failed("its token_ids are no list of tokens")
        # Some services tell the token that ends a text, others leave it out.
        if reason == "stop" and ends and not {*tokens[-1:]} & {*ends}:
            tokens = [*tokens, ends[0]]
        return Continuation(text, tokens)
