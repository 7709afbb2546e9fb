"""How positive a text is, by VADER: a lexicon and rules, nothing trained (Hutto & Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np

from diffdpo.errors import EXTRAS, UserError
from diffdpo.metrics.text_reward import TextReward, of_whole_texts


def load_sentiment() -> Callable[[Sequence[str]], np.ndarray]:
    """A reward of texts: VADER's compound score of each, from −1 (all bad) to 1 (all good).

    Raises UserError where vaderSentiment is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError as error:
        raise UserError(EXTRAS["vaderSentiment"]) from error
    analyzer = SentimentIntensityAnalyzer()

    def sentiment(texts: Sequence[str]) -> np.ndarray:
        return np.array([analyzer.polarity_scores(text)["compound"] for text in texts])

    return sentiment


def sentiment_reward(path: str | None = None) -> TextReward:
    """VADER's compound score of prompt and completion together. Raises UserError as above."""
    judge = load_sentiment()
    identity = {"rule": f"VADER {version('vaderSentiment')}", "scale": "-1 to 1"}
    return of_whole_texts("sentiment", judge, identity)(path)
