"""The judge of texts behind HTTP, against a service on this machine."""

from __future__ import annotations

import re

import pytest

from diffdpo.errors import UserError
from diffdpo.metrics import TEXT_REWARDS
from diffdpo.metrics.judged import faced
from tests.service import Service

PROMPTS = ["Name a {cat}.", "Name a dog."]
GOOD, BAD = ["Tom is a fine name.", "Rex, of course."], ["no", "no"]


class Reader(Service):
    """Likes long texts, or always the first one."""

    likes = "long"

    def answer(self, body):
        (part,) = body["messages"][1]["content"]
        texts = re.findall(r"ext:\n(.*)\n", part["text"])
        if len(texts) == 1:
            return str(min(10, len(texts[0])))
        return "1" if self.likes == "first" or len(texts[0]) > len(texts[1]) else "2"


@pytest.fixture
def service():
    with Reader() as server:
        yield server


@pytest.fixture
def judge(service, tmp_path):
    return TEXT_REWARDS["judge"](service.judge_file(tmp_path))


def test_texts_get_points(service, judge):
    assert judge(PROMPTS, ["four", BAD[0]]).tolist() == [4, 2]
    bodies = [body for _, body in service.requests]
    assert {body["temperature"] for body in bodies} == {0}
    asked = sorted(body["messages"][1]["content"][0]["text"] for body in bodies)
    assert asked[0].startswith("Prompt:\nName a dog.\n\nText:\nno\n")
    assert "texts" in bodies[0]["messages"][0]["content"]  # its own rubric, not that of pictures


def test_two_texts_are_shown_in_both_orders(service, judge):
    assert faced(judge, GOOD, BAD, PROMPTS, 8).tolist() == [1, 1]
    assert faced(judge, BAD, GOOD, PROMPTS, 8).tolist() == [0, 0]
    assert len(service.requests) == 4  # the other way round they were asked for before


def test_one_who_takes_a_side_gives_ties(service, judge):
    service.likes = "first"
    assert faced(judge, GOOD, BAD, PROMPTS, 8).tolist() == [0.5, 0.5]


def test_a_judge_needs_a_service():
    with pytest.raises(UserError, match="--reward judge: which service"):
        TEXT_REWARDS["judge"](None)
