"""The judge behind HTTP, against a service on this machine."""

from __future__ import annotations

import base64
import io
import threading

import numpy as np
import pytest
from PIL import Image

from diffdpo.errors import UserError
from diffdpo.metrics import REWARDS
from tests.service import Service, chat

KEY = "sk-not-to-be-told"


class PictureService(Service):
    """Answers with ``reply(text, pictures)``."""

    reply = staticmethod(lambda text, pictures: str(1 + brightness(pictures[0])))

    def answer(self, body):
        *shown, text = body["messages"][1]["content"]
        pictures = [decoded(part["image_url"]["url"]) for part in shown]
        return self.reply(text["text"], pictures)


def decoded(url):
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def brightness(image):
    """From 0 to 9."""
    return int(np.asarray(image).mean() / 25.6)


@pytest.fixture
def service():
    with PictureService() as server:
        yield server


@pytest.fixture
def judge(service, tmp_path):
    def make(**settings):
        return REWARDS["judge"](service.judge_file(tmp_path, **settings))

    return make


def plain(value):
    return Image.new("RGB", (8, 6), (value,) * 3)


PICTURES = [plain(250), plain(10), plain(130)]
PROMPTS = ["a {cat}", "a dog", "a bee"]


def test_points_are_asked_for_one_picture_at_a_time_at_temperature_0(service, judge):
    scores = judge(rubric="Be strict.")(PICTURES, PROMPTS)
    assert scores.tolist() == [10, 1, 6]
    assert len(service.requests) == 3
    for path, body in service.requests:
        assert path == "/v1/chat/completions"
        assert (body["temperature"], body["model"]) == (0, "tiny")
        assert body["messages"][0] == {"role": "system", "content": "Be strict."}
        (shown, text) = body["messages"][1]["content"]
        picture = decoded(shown["image_url"]["url"])
        at = [plain(v).getpixel((0, 0)) for v in (250, 10, 130)].index(picture.getpixel((0, 0)))
        assert (picture.size, f'Prompt: "{PROMPTS[at]}"' in text["text"]) == ((8, 6), True)


def test_what_was_asked_before_is_not_asked_again(service, judge):
    first = judge()(PICTURES, PROMPTS)
    assert judge()(PICTURES, PROMPTS).tolist() == first.tolist()  # a new object: from the disk
    assert len(service.requests) == 3
    judge()(PICTURES[:1], ["another prompt"])
    judge(rubric="Other.")(PICTURES[:1], PROMPTS[:1])
    judge(model="other")(PICTURES[:1], PROMPTS[:1])
    judge()([plain(251)], PROMPTS[:1])
    assert len(service.requests) == 7


def test_equal_questions_are_asked_once(service, judge):
    assert judge()([plain(130)] * 6, ["a"] * 6).tolist() == [6] * 6
    assert len(service.requests) == 1


def better(text, pictures):
    """The brighter one, whichever comes first; under two prompts always the same side."""
    if "a bee" in text or "a wasp" in text:
        return "1" if "a bee" in text else "2"
    a, b = map(brightness, pictures)
    return "0" if a == b else "1" if a > b else "2"


def test_two_pictures_are_asked_about_in_both_orders(service, judge):
    service.reply = better
    second = [plain(10), plain(250), plain(10), plain(10)]
    wins = judge().compare([*PICTURES, PICTURES[2]], second, [*PROMPTS, "a wasp"])
    # The first is brighter, the second is, and a judge that always prefers one side.
    assert wins.tolist() == [1, 0, 0.5, 0.5]
    assert len(service.requests) == 8
    shown = [
        tuple(decoded(p["image_url"]["url"]).getpixel((0, 0))[0] for p in content[:-1])
        for content in (body["messages"][1]["content"] for _, body in service.requests)
        if "a {cat}" in content[-1]["text"]
    ]
    assert sorted(shown) == [(10, 250), (250, 10)]
    assert judge().compare([plain(10)], [plain(10)], ["x"]).tolist() == [0.5]


@pytest.mark.parametrize("answer", ["2", "0", "<think>1? no</think>\n2."])
def test_a_picture_wins_where_both_answers_name_it(service, judge, answer):
    """The second picture is the dark one. Asked the other way round, it is the first: '1'."""
    service.reply = lambda text, pictures: "1" if brightness(pictures[0]) == 0 else answer
    (win,) = judge().compare([plain(250)], [plain(10)], ["x"])
    assert win == (0.5 if answer == "0" else 0.0)


@pytest.mark.parametrize(
    ("reply", "points"),
    [("7", 7), (" 7.5 / 10", 7.5), ("10/10.", 10), ("<think>maybe 3</think>4", 4)],
)
def test_points_in_their_usual_forms(service, judge, reply, points):
    service.reply = lambda *_: reply
    assert judge()(PICTURES[:1], ["a"])[0] == points


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        ("11", "answers '11', and a number from 1 to 10 is needed"),
        ("0", "answers '0', and"),
        ("I give it 7 of 9 points", "answers 'I give it 7 of 9 points', and"),
        ((500, b"out of memory"), "500 Internal Server Error: out of memory; answers so far"),
        ((401, b"no key"), "401 Unauthorized: no key"),
        ((302, b""), "302 Found"),
        ((200, b"<html>"), "its answer is no JSON"),
        ((200, b"{}"), "its answer has no choices"),
        ((200, chat(None)), "its answer holds no text"),
        ((200, chat("7", "length")), "longer than max_tokens 1024"),
    ],
)
def test_a_service_that_fails_is_one_line_and_nothing_is_kept(
    service, judge, reply, line, tmp_path
):
    service.reply = lambda *_: reply
    with pytest.raises(UserError) as caught:
        judge()(PICTURES[:1], ["a"])
    (told,) = caught.value.mistakes
    assert line in told
    assert told.startswith("judge tiny")
    kept = list((tmp_path / "kept").rglob("*.json"))
    assert len(kept) == (1 if isinstance(reply, str) else 0)  # an answer is one, whatever it says


def test_what_was_answered_before_a_failure_is_kept(service, judge):
    service.reply = lambda text, pictures: "5" if "a dog" in text else (503, b"busy")
    for _ in range(2):
        with pytest.raises(UserError, match="503"):
            judge(requests=1)([PICTURES[1], PICTURES[0]], ["a dog", "a cat"])
    assert sum("a dog" in str(body) for _, body in service.requests) == 1


def test_no_service_and_a_slow_one_are_one_line(service, judge, monkeypatch):
    wait = threading.Event()
    service.reply = lambda *_: "5" if wait.wait(5) else ""
    with pytest.raises(UserError, match=r"no answer within 0\.2 seconds"):
        judge(timeout=0.2)(PICTURES[:1], ["a"])
    wait.set()
    with pytest.raises(UserError, match=r"judge tiny at http://127\.0\.0\.1:9/v1: .*refused"):
        judge(url="http://127.0.0.1:9/v1")(PICTURES[:1], ["a"])


def test_the_key_comes_from_the_environment_and_is_kept_nowhere(
    service, judge, monkeypatch, tmp_path
):
    reward = judge(api_key_env="JUDGE_KEY")
    with pytest.raises(UserError, match="JUDGE_KEY: this environment variable is not set"):
        reward(PICTURES[:1], ["a"])
    monkeypatch.setenv("JUDGE_KEY", KEY)
    reward(PICTURES[:1], ["a"])
    assert service.headers[-1]["Authorization"] == f"Bearer {KEY}"
    judge(model="keyless")(PICTURES[:1], ["a"])
    assert "Authorization" not in service.headers[-1]
    assert KEY not in reward.signature + repr(reward)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert not [path for path in files if KEY in path.read_text()]


def test_the_identity_names_model_and_rubric(judge):
    one, other = judge(), judge(rubric="Be kind.")
    assert one.identity["model"].startswith("tiny at ")
    assert one.identity["model"] != judge(url="http://127.0.0.1:9/v1").identity["model"]
    assert {key for key in one.identity if one.identity[key] != other.identity[key]} == {"rubric"}


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"url": None}, "url: the base of the service is needed"),
        ({"url": "ftp://x"}, "url: the base of the service is needed"),
        ({"model": None}, "model: the name under which"),
        ({"timeout": 0}, "--timeout must be above 0"),
        ({"modle": "x"}, "unknown setting 'modle' (did you mean model?)"),
    ],
)
def test_a_file_that_says_too_little_is_refused(judge, settings, line):
    with pytest.raises(UserError) as caught:
        judge(**settings)
    assert any(line in told and "judge.yaml: " in told for told in caught.value.mistakes)


def test_without_a_file_the_service_is_asked_for(tmp_path):
    with pytest.raises(UserError, match=r"which service\? give --reward_model judge=FILE\.yaml"):
        REWARDS["judge"]()
    with pytest.raises(UserError, match=r"--reward_model judge=.*no\.yaml: .*No such file"):
        REWARDS["judge"](str(tmp_path / "no.yaml"))
