"""The page in a real browser, as people use it."""

import errno
import io
import statistics
from contextlib import ExitStack
from urllib.parse import urlsplit

import av
import numpy as np
import pytest

from diffdpo.annotate.queue import item
from diffdpo.annotate.votes import UNDO, VoteFile
from tests.annotate.browser import WANTED, Person, chromium, serving, started
from tests.annotate.made import ARABIC, BROKEN, HOSTILE, PROMPTS, data_set, rows, session

MANY = [f"prompt {number}" for number in range(30)]


@pytest.fixture(scope="module")
def browser():
    with started() as found:
        yield found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return data_set(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return data_set(tmp_path_factory.mktemp("many"), rows(MANY))


@pytest.fixture
def served(tmp_path):
    """``served(data)``: a session on these pairs and its address, until the test ends."""
    with ExitStack() as stack:

        def start(data, **given):
            made = session(tmp_path, [data], **given)
            return made, stack.enter_context(serving(made))

        yield start


def lines(made):
    return VoteFile(made.file.path.parent).read()


def test_keys_alone_choose_take_back_and_turn_to_full_size(browser, served, many):
    made, url = served(many)
    ann = Person(browser, url)
    name = ann.page.evaluate("annotator")
    seen = {}
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown", "b", "S"):
        seen[key] = ann.pair
        ann.press(key)
    left = {key: item(0, pair, name, 0).left for key, pair in seen.items()}
    turned = {"first": "second", "second": "first"}
    wanted = [left["ArrowLeft"], turned[left["ArrowRight"]], "tie", "both_bad", "skip"]
    assert [line.choice for line in lines(made)] == wanted
    assert [line.pair for line in lines(made)] == list(seen.values())
    ann.press("u")
    assert ann.pair == seen["S"]
    ann.press("u")
    assert ann.pair == seen["b"]
    assert [line.choice for line in lines(made)][5:] == [UNDO, UNDO]
    before = len(lines(made))
    ann.page.keyboard.press("f")
    assert ann.page.evaluate("document.body.classList.contains('full')")
    # A key that is held down, one with Ctrl, and one that means nothing.
    ann.page.evaluate(
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft', repeat: true}))"
    )
    ann.page.keyboard.press("Control+ArrowLeft")
    ann.page.keyboard.press("x")
    assert len(lines(made)) == before
    # The buttons are reached by Tab, the focus is seen, and Enter chooses.
    pressed = 0
    while ann.page.evaluate("document.activeElement.dataset.act") != "tie":
        ann.page.keyboard.press("Tab")
        pressed += 1
        assert pressed < 20
    outline = ann.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    ann.press("Enter")
    assert lines(made)[-1].choice == "tie"
    assert not ann.complaints


def test_a_reload_goes_on_with_the_same_pair_under_the_same_name(browser, served, many):
    _, url = served(many)
    ann = Person(browser, url)
    ann.press("ArrowLeft")
    pair, name = ann.pair, ann.page.evaluate("annotator")
    ann.page.reload()
    ann.wait("pair")
    assert (ann.pair, ann.page.evaluate("annotator")) == (pair, name)
    assert ann.page.locator("#count").text_content() == "1 of 30"


def test_a_choice_shows_the_next_pair_within_a_tenth_of_a_second(browser, served, many):
    made, url = served(many)
    ann = Person(browser, url)
    times = []
    for _ in range(7):
        ann.page.wait_for_function("() => items.length > 1 && items[1].ready && !sending")
        times.append(
            ann.page.evaluate(
                """() => new Promise(done => {
                  const before = document.getElementById('prompt').textContent;
                  const since = performance.now();
                  document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowLeft'}));
                  requestAnimationFrame(() => {
                    const seen = document.getElementById('prompt').textContent !== before;
                    const loaded = [...document.querySelectorAll('.frame img')];
                    const whole = loaded.length === 2 && loaded.every(i => i.naturalWidth > 0);
                    done(seen && whole ? performance.now() - since : Infinity);
                  });
                })"""
            )
        )
    ann.wait("pair")
    assert statistics.median(times) < 100, times
    assert len(lines(made)) == 7
    assert all(line.fast for line in lines(made)[1:])  # kept, and told apart


def test_two_people_never_see_the_same_pair_at_once(browser, served, many):
    made, url = served(many, votes_per_pair=1)
    people = [Person(browser, url), Person(browser, url)]
    for turn in range(40):
        one = people[turn % 2]
        held = [set(p.page.evaluate("items.map(i => i.data.pair)")) for p in people]
        assert not held[0] & held[1]
        if one.state == "pair":
            one.press("ArrowLeft")
    assert {line.annotator for line in lines(made)} == {
        one.page.evaluate("annotator") for one in people
    }
    assert sorted(line.pair for line in lines(made)) == list(range(30))
    assert {one.wait("done", "waiting") for one in people} <= {"done", "waiting"}


def test_prompts_are_text_in_their_own_direction(browser, served, hostile):
    _, url = served(hostile)
    ann = Person(browser, url)
    direction = "getComputedStyle(document.getElementById('prompt')).direction"
    seen = {}
    while ann.state == "pair":
        seen[ann.prompt] = ann.page.evaluate(direction)
        assert ann.page.locator("#prompt *").count() == 0
        ann.press("s")
    assert set(seen) == set(PROMPTS)
    assert ann.page.title() == "Which is better?"
    assert [prompt for prompt, way in seen.items() if way == "rtl"] == [ARABIC]
    assert HOSTILE in seen
    assert all("422" in line for line in ann.complaints)  # of the broken picture


def test_a_picture_that_cannot_be_shown_says_so_and_can_only_be_skipped(browser, served, hostile):
    made, url = served(hostile)
    ann = Person(browser, url)
    ann.go_to(BROKEN)
    assert ann.page.locator(".broken").text_content() == "This one cannot be shown. Skip the pair."
    before = len(lines(made))
    ann.page.keyboard.press("ArrowLeft")
    assert ann.page.locator("[data-act=left]").is_disabled()
    ann.press("s")
    assert [line.choice for line in lines(made)[before:]] == ["skip"]


def test_a_phone_shows_all_of_it(browser, served, hostile):
    made, url = served(hostile)
    phone = {"viewport": {"width": 320, "height": 568}, "has_touch": True, "is_mobile": True}
    ann = Person(browser, url, **phone)
    ann.go_to(PROMPTS.index("a long one " * 40))
    size = ann.page.evaluate("[document.documentElement.scrollWidth, document.body.scrollHeight]")
    assert size[0] <= 320
    assert size[1] <= 568
    for element in ann.page.locator("nav button, figure").all():
        box = element.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 320
        assert box["y"] + box["height"] <= 568
        assert box["height"] >= 30
    before = len(lines(made))
    ann.page.locator("[data-act=right]").tap()
    ann.page.wait_for_function("() => !sending")
    assert len(lines(made)) == before + 1


def test_nothing_is_asked_of_any_other_machine(browser, served, many):
    _, url = served(many)
    ann = Person(browser, url)
    for key in ("ArrowLeft", "ArrowRight", "u", "f"):
        ann.press(key)
    assert len(ann.requests) > 8
    assert {urlsplit(address).netloc for address in ann.requests} == {urlsplit(url).netloc}
    assert not ann.complaints


def test_a_full_disk_stops_the_page_until_it_is_mended(browser, served, many):
    made, url = served(many)
    ann = Person(browser, url)
    append = made.file.append

    def full(vote):
        raise OSError(errno.ENOSPC, "No space left on device")

    made.file.append = full
    ann.press("ArrowLeft", "stopped")
    assert ann.page.locator("#notice").is_visible()
    said = ann.page.locator("#alert").text_content()
    assert "Your last choice is not saved." in said
    assert "No space left on device" in said
    ann.page.keyboard.press("ArrowRight")
    assert ann.state == "stopped"
    assert not lines(made)
    made.file.append = append
    ann.page.keyboard.press("Enter")  # the button has the focus
    ann.wait("pair")
    assert len(lines(made)) == 1
    ann.press("ArrowRight")
    assert len(lines(made)) == 2


def test_texts_are_shown_as_text_and_the_end_is_said(browser, served, tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text('{"prompt": "why?", "chosen": "<b>so</b>\\nand so", "rejected": "no"}\n')
    made, url = served(file)
    ann = Person(browser, url)
    shown = ann.page.locator(".text").all_text_contents()
    assert sorted(shown) == ["<b>so</b>\nand so", "no"]
    ann.page.locator(".text").first.click()  # to select or scroll, not to choose
    assert not lines(made)
    ann.press("ArrowLeft", "done")
    assert ann.page.locator("#notice-title").text_content() == "That was all. Thank you."
    ann.press("u", "pair")


def clip(shade):
    """Sixteen frames of a WebM file."""
    file = io.BytesIO()
    with av.open(file, "w", format="webm") as output:
        stream = output.add_stream("libvpx", rate=8)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for number in range(16):
            pixels = np.full((64, 64, 3), (shade, 16 * number, 0), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        output.mux(stream.encode())
    return file.getvalue()


def test_clips_play_by_themselves_and_over_again(browser, served, tmp_path):
    row = {"video_0": clip(0), "video_1": clip(200), "caption": "p", "label_0": 1.0}
    made, url = served(data_set(tmp_path / "d", [row]))
    ann = Person(browser, url)
    ann.page.wait_for_function(
        "() => [...document.querySelectorAll('video')].every(v => v.currentTime > 0)"
    )
    playing = "[...document.querySelectorAll('video')].map(v => v.loop && v.muted && !v.paused)"
    assert ann.page.evaluate(playing) == [True, True]
    ann.press("ArrowLeft", "done")
    assert len(lines(made)) == 1
    assert ann.page.locator("[data-act=undo]").is_enabled()
    bob = Person(browser, url)
    bob.press("s", "done")
    bob.press("u", "pair")
    assert bob.page.locator("[data-act=undo]").is_disabled()


def test_another_name_goes_on_where_it_was(browser, served, many):
    made, url = served(many)
    ann = Person(browser, url)
    ann.page.locator("#name").click()
    ann.page.keyboard.type("../x")
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_function("() => document.getElementById('who-wrong').textContent.length > 0")
    ann.page.locator("#who-name").fill("bob b")
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_function("() => !document.getElementById('who').open")
    ann.wait("pair")
    ann.press("ArrowDown")
    assert lines(made)[-1].annotator == "bob b"
    assert ann.page.locator("#name").text_content() == "bob b"


def test_where_a_browser_is_required_no_test_is_left_out(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.delenv(WANTED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="no chromium: apt-get install"):
        chromium()
    monkeypatch.setenv(WANTED, "required")
    with pytest.raises(pytest.fail.Exception, match="no chromium: apt-get install"):
        chromium()
