"""A judge behind an OpenAI-compatible service: vLLM, sglang or any other that answers chats.

It gives a picture points by a rubric and, asked about two pictures, says which is better. Settings
are in a YAML file, see ``JudgeSettings``: ``--reward judge --reward_model judge=FILE.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from diffdpo.config import BaseSettings, read_yaml, settings_of
from diffdpo.errors import UserError, short
from diffdpo.flags import flag
from diffdpo.metrics.chat import Chat, Question
from diffdpo.metrics.pixels import as_rgb
from diffdpo.metrics.reward import Reward

Answer = TypeVar("Answer")
Settings = TypeVar("Settings", bound="JudgeSettings")
RUBRIC = (
    "You judge pictures that were made from a prompt. Weigh how well the picture shows what the"
    " prompt asks for, how sound it is, and how good it looks."
)
POINTS = 'Prompt: "{}"\nGive the picture whole points from 1 (worst) to 10 (best). Answer with the'
POINTS += " number alone."
PAIR = 'Prompt: "{}"\nWhich picture is better, the first or the second? Answer with 1 or 2 alone,'
PAIR += " or with 0 where neither is."
THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)  # that some models print before they answer
OF_TEN = re.compile(r"(\d+(?:\.\d+)?)(?:\s*/\s*10)?\.?")
SIDE = re.compile(r"([012])\.?")


@dataclass(frozen=True)
class JudgeSettings(BaseSettings):
    """The content of a judge's file."""

    url: str | None = flag(None, "base of the service, http://127.0.0.1:8000/v1 for example")
    model: str | None = flag(None, "name under which the service has the model")
    rubric: str = flag(RUBRIC, "what the judge is told before it is asked")
    api_key_env: str | None = flag(
        None, "the environment variable with the service's key, which is stored nowhere"
    )
    timeout: float = flag(120.0, "seconds that an answer may take", above=0, most=86_400)
    max_tokens: int = flag(1024, "tokens that an answer may have", least=1, most=2**20)
    requests: int = flag(8, "questions asked at once", least=1, most=1024)
    cache_dir: str = flag("~/.cache/diffdpo/judge", "where answers are kept")

    def problems(self) -> list[str]:
        lines = super().problems()
        if not re.match(r"https?://[^/]", self.url or ""):
            lines.append("url: the base of the service is needed, http://127.0.0.1:8000/v1 or so")
        if not self.model:
            lines.append("model: the name under which the service has the model is needed")
        return lines


@dataclass(frozen=True)
class PairwiseJudge:
    """A judge of two pictures, or texts, under one prompt; ``ask`` makes the question about them.

    It is asked in both orders, since models prefer a side: one wins where both answers name it; all
    else is a tie.
    """

    chat: Chat
    requests: int
    ask: Callable[[Any, Any, Any], Question]

    def compare(
        self, first: Sequence[Any], second: Sequence[Any], prompts: Sequence[Any]
    ) -> np.ndarray:
        """1 where the first one wins, 0 where the second does, 0.5 for a tie, ``(N,)``.

        Raises UserError where the service does not answer, or answers anything else.
        """
        pairs = list(zip(first, second, prompts, strict=True))
        questions = [self.ask(prompt, one, two) for one, two, prompt in pairs]
        questions += [self.ask(prompt, two, one) for one, two, prompt in pairs]
        sides = in_turn(self.chat, questions, named_side, self.requests)
        forth, back = np.array(sides[: len(pairs)]), np.array(sides[len(pairs) :])
        wins = (forth == 1) & (back == 2)
        losses = (forth == 2) & (back == 1)
        return 0.5 + (wins.astype(float) - losses) / 2


def open_reward(name: str, path: str | None = None) -> Reward:
    """The judge that a YAML file describes: points of a picture, and ``compare`` for two of them.

    Raises UserError where there is no file, or one with other settings.
    """
    settings = written_settings(name, path, JudgeSettings)
    chat = open_chat(settings)

    def points(pictures: Sequence[Image.Image], prompts: Sequence[str]) -> np.ndarray:
        questions = [question(POINTS, p, one) for one, p in zip(pictures, prompts, strict=True)]
        return np.array(in_turn(chat, questions, given_points, settings.requests))

    def pair(prompt: str, one: Image.Image, two: Image.Image) -> Question:
        return question(PAIR, prompt, one, two)

    pairwise = PairwiseJudge(chat, settings.requests, pair)
    identity = chat.identity(POINTS + PAIR, pictures="whole as PNG")
    return Reward(name, points, identity, versus=pairwise.compare)


def open_chat(settings: JudgeSettings) -> Chat:
    """The service of a judge."""
    return Chat(
        str(settings.url),
        str(settings.model),
        settings.api_key_env,
        settings.timeout,
        settings.rubric,
        settings.max_tokens,
        settings.cache_dir,
    )


def written_settings(name: str, path: str | None, kind: type[Settings]) -> Settings:
    """The settings in a judge's file, of this kind. Raises UserError where there is none, and with
    a line for each that cannot work."""
    if path is None:
        raise UserError(
            f"--reward {name}: which service? give --reward_model {name}=FILE.yaml with its url and"
            " model (docs/rewards.md)"
        )
    place = f"--reward_model {name}="
    content = read_yaml(path, place)
    try:
        return settings_of(kind, **{str(key): value for key, value in content.items()})
    except UserError as error:
        raise UserError(*(f"{place}{path}: {line}" for line in error.mistakes)) from error


def question(text: str, prompt: str, *pictures: Image.Image) -> Question:
    """A question about pictures that were made from a prompt."""
    return Question(text.format(prompt), tuple(as_rgb(picture) for picture in pictures))


def in_turn(
    chat: Chat, questions: Sequence[Question], read: Callable[[Chat, str], Answer], at_once: int
) -> list[Answer]:
    """What ``read`` makes of the answers to all questions, in their order.

    Some are asked at once, and each of equal ones once.
    """
    keys = [chat.kept_at(one) for one in questions]
    distinct = dict(zip(keys, questions, strict=True))
    with ThreadPoolExecutor(at_once) as pool:
        try:
            found = pool.map(lambda one: read(chat, chat.ask(one)), distinct.values())
            answers = dict(zip(distinct, found, strict=True))
        except BaseException:  # Ctrl-C as well: what is not asked yet stays so
            pool.shutdown(cancel_futures=True)
            raise
    return [answers[key] for key in keys]


def given_points(chat: Chat, answer: str) -> float:
    """The points from 1 to 10 that a judge gives. Raises UserError for any other answer."""
    match = OF_TEN.fullmatch(spoken(answer))
    if match is None or not 1 <= float(match[1]) <= 10:
        raise UserError(
            f"judge {chat.model}: answers {short(answer)!r}, and a number from 1 to 10 is needed"
        )
    return float(match[1])


def named_side(chat: Chat, answer: str) -> int:
    """1, 2, or 0 for neither. Raises UserError for any other answer."""
    match = SIDE.fullmatch(spoken(answer))
    if match is None:
        raise UserError(f"judge {chat.model}: answers {short(answer)!r}, and 1, 2 or 0 is needed")
    return int(match[1])


def spoken(answer: str) -> str:
    """An answer without what the model thought aloud before."""
    return THOUGHTS.sub("", answer).strip()
