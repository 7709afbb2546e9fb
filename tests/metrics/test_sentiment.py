"""The reward of texts is VADER's, and says so where VADER is missing."""

import sys

import pytest

from diffdpo.errors import UserError
from diffdpo.metrics.sentiment import load_sentiment

# The examples of vaderSentiment's README with their scores.
PUBLISHED = {
    "VADER is smart, handsome, and funny.": 0.8316,
    "VADER is VERY SMART, handsome, and FUNNY!!!": 0.9342,
    "The book was good.": 0.4404,
    "Today SUX!": -0.5461,
    "VADER is not smart, handsome, nor funny.": -0.7424,
}


def test_published_scores():
    scores = load_sentiment()(list(PUBLISHED))
    assert scores == pytest.approx(list(PUBLISHED.values()), abs=1e-4)
    assert load_sentiment()([""]) == [0]


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(UserError, match=r"pip install 'diffdpo\[sentiment\]'"):
        load_sentiment()
