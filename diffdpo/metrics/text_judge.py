"""A judge of texts behind an OpenAI-compatible service, as ``judge`` is one of pictures.

Settings are in a YAML file: ``--reward judge --reward_model judge=FILE.yaml``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffdpo.flags import restated
from diffdpo.metrics.chat import Question
from diffdpo.metrics.judge import (
    JudgeSettings,
    PairwiseJudge,
    given_points,
    in_turn,
    open_chat,
    written_settings,
)
from diffdpo.metrics.text_reward import Prompts, TextReward, Texts

RUBRIC = (
    "You judge texts that were written for a prompt. Weigh how well a text does what the prompt"
    " asks for, how true it is, and how well it is written; its length alone is no merit."
)
POINTS = "Prompt:\n{}\n\nText:\n{}\n\nGive the text whole points from 1 (worst) to 10 (best)."
POINTS += " Answer with the number alone."
PAIR = "Prompt:\n{}\n\nFirst text:\n{}\n\nSecond text:\n{}\n\nWhich text is better, the first or"
PAIR += " the second? Answer with 1 or 2 alone, or with 0 where neither is."


@dataclass(frozen=True)
class TextJudgeSettings(JudgeSettings):
    """The content of the file of a judge of texts."""

    rubric: str = restated(JudgeSettings, "rubric", default=RUBRIC)


def open_reward(path: str | None = None) -> TextReward:
    """The judge that a YAML file describes: points of a text, and ``versus`` for two of them.

    Raises UserError where there is no file, or one with other settings.
    """
    settings = written_settings("judge", path, TextJudgeSettings)
    chat = open_chat(settings)

    def points(prompts: Prompts, completions: Texts) -> np.ndarray:
        both = zip(prompts, completions, strict=True)
        questions = [Question(POINTS.format(prompt, text), ()) for prompt, text in both]
        return np.array(in_turn(chat, questions, given_points, settings.requests))

    def pair(prompt: Any, one: str, two: str) -> Question:
        return Question(PAIR.format(prompt, one, two), ())

    versus = PairwiseJudge(chat, settings.requests, pair).compare
    identity = chat.identity(POINTS + PAIR)
    return TextReward("judge", points, identity, versus=versus)
