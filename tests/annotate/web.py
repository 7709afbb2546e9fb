"""A client of the page's addresses, for the tests."""

from __future__ import annotations

import json

from starlette.testclient import TestClient

from diffdpo.annotate.guard import Rules
from diffdpo.annotate.server import application

URL = "http://127.0.0.1:8765"
OWN = {"Origin": URL, "Content-Type": "application/json"}


def client(made, rules=None, url=URL):
    return TestClient(application(made, rules or Rules("127.0.0.1", 8765)), base_url=url)


def post(to, path, status=200, headers=OWN, **body):
    answer = to.post(f"/api/{path}", content=json.dumps(body), headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


def first(to, name="ann"):
    return post(to, "next", annotator=name)["items"][0]


def choose(to, choice, name="ann", status=200, **given):
    one = {**{k: v for k, v in first(to, name).items() if k in ("pair", "visit")}, **given}
    return post(to, "vote", status, annotator=name, choice=choice, **{"ms": 700, **one}), one
