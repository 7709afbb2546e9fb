"""A real browser at a real server, for the tests of the page."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from diffdpo.annotate.guard import Rules
from diffdpo.annotate.server import application, configured, listening
from diffdpo.annotate.session import Session

WANTED = "DIFFDPO_BROWSER"  # "required" in CI, where no test may be left out
LIMIT = 15_000  # milliseconds in which a page has to react on a busy machine


def chromium() -> str:
    """The path of the system's chromium; skips the test, or fails it where one is required."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        why = "no chromium: apt-get install chromium"
        if os.environ.get(WANTED) == "required":
            pytest.fail(why)
        pytest.skip(why)
    return found


@contextmanager
def started() -> Iterator[Any]:
    """The browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root has no sandbox; what is shown is the tests' own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def serving(session: Session) -> Iterator[str]:
    """The address of a session's page, which is served on a thread."""
    socket = listening("127.0.0.1", 0)
    rules = Rules("127.0.0.1", socket.getsockname()[1])
    server = uvicorn.Server(configured(application(session, rules)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, daemon=True)
    thread.start()
    try:
        yield rules.url
    finally:
        server.should_exit = True
        thread.join(10)


class Person:
    """Somebody at the page: a browser context of their own, and what went over the wire."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1100, "height": 700}, **options}
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(LIMIT)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)
        self.wait("pair", "waiting", "done")

    def wait(self, *states: str) -> str:
        """Wait for one of the states of the page, and for all that is being sent."""
        self.page.wait_for_function(
            "states => states.includes(document.body.dataset.state) && !sending", arg=list(states)
        )
        return str(self.state)

    @property
    def state(self) -> str:
        return str(self.page.evaluate("document.body.dataset.state"))

    @property
    def pair(self) -> int:
        """The pair on the screen."""
        return int(self.page.evaluate("items[0].data.pair"))

    @property
    def prompt(self) -> str:
        return str(self.page.locator("#prompt").text_content())

    def press(self, key: str, *states: str) -> None:
        """A key, and what it leads to."""
        self.page.keyboard.press(key)
        self.wait(*(states or ("pair", "waiting", "done")))

    def go_to(self, pair: int) -> None:
        """Skip until a pair is on the screen."""
        while self.pair != pair:
            self.press("s")

    def close(self) -> None:
        self.context.close()
