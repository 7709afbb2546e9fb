"""A report on a phone, in a real browser."""

import pytest

from diffdpo.report.page import Report
from tests.annotate.browser import started
from tests.factory import encoded, picture

WIDTH = 320


@pytest.fixture(scope="module")
def phone():
    with started() as browser:
        yield browser.new_page(viewport={"width": WIDTH, "height": 640})


def test_nothing_is_wider_than_a_phone_and_no_text_is_a_tag(phone, tmp_path):
    report = Report("runs/" + "a" * 90)
    report.headline("Win rate 62.5 % [50.1, 74.9] by a_reward_with_a_long_name", "why")
    report.picture(encoded(picture(0, (1400, 700))), "a sheet")
    report.pictures([("one", encoded(picture(1, (900, 90)))), ("two", encoded(picture(2)))])
    report.table(["setting", *"abcdefgh"], [["learning_rate", *["0.000012345"] * 8]])
    report.table(
        ["", "prompt"], [["1", "<script>alert(1)</script> 猫 🐈"], ["2", "قطة حمراء"]], False
    )
    report.code("a: " + "x" * 300)
    report.save(tmp_path / "report.html")
    phone.goto((tmp_path / "report.html").as_uri())
    assert phone.evaluate("document.documentElement.scrollWidth") <= WIDTH
    widths = phone.evaluate("[...document.images].map(i => i.getBoundingClientRect().width)")
    assert max(widths) <= WIDTH
    # What is too wide scrolls within itself.
    scrolls = (
        "[...document.querySelectorAll('.scroll, pre')].map(e => e.scrollWidth > e.clientWidth)"
    )
    assert phone.evaluate(scrolls) == [True, False, True]
    assert phone.evaluate("document.scripts.length") == 0
    assert phone.evaluate("document.body.innerText").count("<script>alert(1)</script>") == 1
    arabic = "getComputedStyle([...document.querySelectorAll('td')].at(-1)).direction"
    assert phone.evaluate(arabic) == "rtl"
