"""The addresses behind the page: what they answer, and to whom."""

import errno
import io
import os

import pytest
from PIL import Image

from diffdpo.annotate.queue import item
from diffdpo.annotate.server import listening, part_of
from diffdpo.annotate.votes import UNDO, VoteFile
from diffdpo.errors import UserError
from tests.annotate.made import BROKEN, PROMPTS, data_set, rows, session
from tests.annotate.web import choose, client, first, post


def test_a_choice_is_a_line_in_terms_of_the_items_and_not_of_the_screen(served):
    made, to = served
    for choice in ("left", "right", "tie", "both_bad", "skip"):
        _, one = choose(to, choice)
        (line,) = VoteFile(made.file.path.parent).read()[-1:]
        left = item(0, one["pair"], "ann", 0).left
        wanted = {"left": left, "right": {"first": "second", "second": "first"}[left]}
        assert line.choice == wanted.get(choice, choice)
        assert (line.left, line.kind, line.ms, line.pair) == (left, "normal", 700, one["pair"])
        assert line.prompt == PROMPTS[one["pair"]]
        assert line.first != line.second


def test_the_page_is_told_prompts_and_numbers_and_nothing_of_what_is_compared(served):
    _, to = served
    answer = post(to, "next", annotator="ann")
    for one in answer["items"]:
        assert set(one) == {"pair", "visit", "prompt", "sides"}
        assert one["prompt"] == PROMPTS[one["pair"]]
        assert one["sides"] == [{"kind": "image"}] * 2
    assert set(answer["progress"]) == {
        "seen", "open", "pace_ms", "votes", "people", "agreement", "undo"
    }  # fmt: skip


def test_pictures_come_by_number_with_the_sides_of_the_annotator_and_without_notes(data, tmp_path):
    given = rows(["p"] * 6)
    made = session(tmp_path, [data_set(tmp_path / "d", given)])
    to = client(made)
    mirrored = set()
    for pair in range(6):
        for visit in (0, 1):
            for place in (0, 1):
                answer = to.get(f"/media/{pair}/{visit}/{place}?as=ann")
                assert answer.headers["content-type"] == "image/png"
                shown = Image.open(io.BytesIO(answer.content))
                left = item(0, pair, "ann", visit).left == "first"
                side = place if left else 1 - place
                mirrored.add(left)
                stored = Image.open(io.BytesIO(given[pair][f"jpg_{side}"]))
                assert shown.tobytes() == stored.convert("RGB").tobytes()
                assert not shown.info
    assert mirrored == {True, False}


def test_a_picture_that_cannot_be_read_says_so_and_not_why(served, capsys):
    _, to = served
    place = int(item(0, BROKEN, "ann", 0).left == "first")  # of the second item
    answer = to.get(f"/media/{BROKEN}/0/{place}?as=ann")
    assert (answer.status_code, answer.json()) == (422, {"error": "it cannot be read"})
    assert f"pair {BROKEN}" in capsys.readouterr().out
    assert to.get(f"/media/{BROKEN}/0/{1 - place}?as=ann").status_code == 200
    for path in ("/media/99/0/0?as=ann", "/media/0/2/0?as=ann", "/media/0/0/2?as=ann"):
        assert to.get(path).status_code == 404
    assert to.get("/media/0/0/0?as=../x").status_code == 400
    assert to.get("/media/..%2f..%2fetc%2fpasswd").status_code == 404


def test_taking_back_puts_the_pair_before_the_annotator_again(served):
    made, to = served
    _, one = choose(to, "left")
    answer, two = choose(to, "right")
    assert answer["progress"]["seen"] == 2
    back = post(to, "undo", annotator="ann")
    assert back["items"][0]["pair"] == two["pair"]
    back = post(to, "undo", annotator="ann")
    assert [i["pair"] for i in back["items"]][:2] == [one["pair"], two["pair"]]
    assert back["progress"]["seen"] == 0
    assert post(to, "undo", 409, annotator="ann") == {"error": "there is nothing to take back"}
    lines = VoteFile(made.file.path.parent).read()
    assert [line.choice == UNDO for line in lines] == [False, False, True, True]


def test_a_second_choice_on_the_same_pair_is_refused(served):
    made, to = served
    _, one = choose(to, "left")
    answer, _ = choose(to, "left", status=409, **one)
    assert "is there already" in answer["error"]
    assert len(VoteFile(made.file.path.parent).read()) == 1


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"choice": "first"}, 400),
        ({"choice": 1}, 400),
        ({"ms": -1}, 400),
        ({"ms": 10**12}, 400),
        ({"ms": True}, 400),
        ({"pair": "0"}, 400),
        ({"pair": 10**30}, 409),
        ({"pair": -1}, 409),
        ({"visit": 1}, 409),
        ({"annotator": ""}, 400),
        ({"annotator": "../../x"}, 400),
        ({"annotator": "a" * 41}, 400),
        ({"annotator": "a\nb"}, 400),
        ({"more": 1}, 400),
    ],
)
def test_a_body_that_is_none_of_the_page_s_changes_nothing(served, change, status):
    made, to = served
    body = {"annotator": "ann", "pair": 0, "visit": 0, "choice": "left", "ms": 5, **change}
    assert "error" in post(to, "vote", status, **body)
    assert not VoteFile(made.file.path.parent).read()


def test_a_disk_that_takes_no_more_is_answered_as_such(served, monkeypatch, capsys):
    made, to = served

    def full(descriptor, data, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    answer, one = choose(to, "left", status=507)
    assert answer["error"] == "the choice could not be saved: No space left on device"
    assert "not saved" in capsys.readouterr().out
    monkeypatch.undo()
    assert first(to)["pair"] == one["pair"]  # it is still theirs
    choose(to, "left", **one)
    assert len(VoteFile(made.file.path.parent).read()) == 1


def test_two_annotators_at_once_share_no_pair(tmp_path):
    to = client(session(tmp_path, [data_set(tmp_path / "d", rows(["p"] * 20))]))
    held = {name: [] for name in ("ann", "bob", "cy")}
    for _ in range(6):
        for name in held:
            held[name] = [one["pair"] for one in choose(to, "left", name)[0]["items"]]
            pairs = [pair for own in held.values() for pair in own]
            assert len(pairs) == len(set(pairs))


def test_parts_of_a_video_are_sent_as_players_ask_for_them():
    body = bytes(range(100))
    whole = part_of(body, "video/mp4", "")
    assert (whole.status_code, whole.body) == (200, body)
    for asked, part in (
        ("bytes=0-", body),
        ("bytes=10-19", body[10:20]),
        ("bytes=90-500", body[90:]),
    ):
        answer = part_of(body, "video/mp4", asked)
        assert (answer.status_code, answer.body) == (206, part)
        assert answer.headers["content-range"].endswith("/100")
    assert part_of(body, "video/mp4", "bytes=100-").status_code == 416
    for odd in ("bytes=-5", "bytes=a-b", "lines=1-2", "bytes=1-2,4-5"):
        assert part_of(body, "video/mp4", odd).status_code == 200


def test_a_port_in_use_is_said():
    found = listening("127.0.0.1", 0)
    with found, pytest.raises(UserError, match=r"cannot be served on .*--port 0 takes"):
        listening("127.0.0.1", found.getsockname()[1])
    with pytest.raises(UserError, match=r"--host no.such.host.invalid"):
        listening("no.such.host.invalid", 0)
