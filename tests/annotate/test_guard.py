"""Who is answered at all."""

import pytest

from diffdpo.annotate.guard import HEADERS, LARGEST_BODY, Rules, is_loopback, name_in
from tests.annotate.made import session
from tests.annotate.web import OWN, client, post


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Origin": "http://evil.example"}, b"{}", 403),
        ({"Origin": "http://127.0.0.1:3000"}, b"{}", 403),
        ({"Origin": "null"}, b"{}", 403),
        ({"Origin": ""}, b"{}", 403),
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, b"a=1", 415),
        ({"Content-Type": ""}, b"{}", 415),
        ({}, b"x" * (LARGEST_BODY + 1), 413),
        ({"Content-Length": "99999999"}, b"{}", 413),
        ({"Content-Length": "-1"}, b"{}", 413),
        ({}, b"{", 400),
        ({}, b"\xff\xfe", 400),
        ({}, b"[]", 400),
        ({}, b"[" * 4000, 400),
        ({"Content-Type": "application/json; charset=utf-8"}, b'{"annotator": "a"}', 200),
        ({"Host": "evil.example"}, b"{}", 403),
        ({"Host": "127.0.0.1.evil.example"}, b"{}", 403),
    ],
)
def test_a_request_of_another_page_does_not_pass(served, headers, content, status):
    _, to = served
    sent = {**OWN, **headers}
    if "Host" in headers:
        sent["Origin"] = f"http://{headers['Host']}"
    answer = to.post("/api/next", content=content, headers=sent)
    assert answer.status_code == status
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


def test_a_large_body_without_a_length_is_stopped(served):
    _, to = served
    parts = (b"x" * 1000 for _ in range(10))
    assert to.post("/api/next", content=parts, headers=OWN).status_code == 413


@pytest.mark.parametrize(
    "path", ["/", "/page.js", "/page.css", "/icon.svg", "/nothing", "/api/vote"]
)
def test_every_answer_has_the_headers_and_a_foreign_name_gets_none_of_them(served, path):
    _, to = served
    answer = to.get(path)
    assert answer.status_code == {"/nothing": 404, "/api/vote": 405}.get(path, 200)
    assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
    foreign = to.get(path, headers={"Host": "annotate.evil.example:8765"})
    assert foreign.status_code == 403
    assert len(foreign.text) < 100


def test_the_page_has_no_inline_code_and_puts_data_in_as_text():
    from diffdpo.annotate.server import PAGE

    html = (PAGE / "index.html").read_text()
    script = "".join(file.read_text() for file in PAGE.glob("*.js"))
    assert " style=" not in html
    assert " on" not in "".join(
        html.split("<body")[1].split('<p id="status"')[0].split("aria-")[:1]
    )
    for word in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "http:",
    ):
        assert word not in script
    assert "http" not in (PAGE / "page.css").read_text() + html


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("127.0.0.1:80", "127.0.0.1"),
        ("[::1]:80", "::1"),
        ("[::1]", "::1"),
        ("LOCALHOST.", "localhost"),
        ("", ""),
        ("a:b", "a:b"),
    ],
)
def test_the_host_of_a_header(header, name):
    assert name_in(header) == name


def test_which_names_a_server_has():
    alone = Rules("127.0.0.1", 1)
    assert alone.knows("localhost:9000")  # the other end of a tunnel
    assert not alone.knows("192.168.1.5:1")
    assert not alone.knows("localhost.evil.example")
    assert not alone.knows("")
    everywhere = Rules("0.0.0.0", 1, "t")
    assert everywhere.knows("192.168.1.5:1")
    assert everywhere.knows("[fe80::1]:1")
    assert not everywhere.knows("evil.example")
    assert Rules("box.local", 1, "t").knows("Box.Local:1")
    assert [is_loopback(h) for h in ("127.0.0.9", "::1", "localhost", "0.0.0.0", "box")] == [
        True, True, True, False, False
    ]  # fmt: skip


def test_without_the_token_nothing_is_answered_and_with_it_a_cookie_goes_on(data, tmp_path):
    made, rules = session(tmp_path, [data]), Rules("0.0.0.0", 8765, "s3cret")
    to = client(made, rules)
    for path in ("/", "/page.js", "/media/0/0/0?as=ann", "/?token=other", "/page.js?token=s3cret"):
        assert to.get(path).status_code == 401
    assert post(to, "next", 401, annotator="ann")
    came = to.get("/?token=s3cret", follow_redirects=False)
    assert (came.status_code, came.headers["location"]) == (303, "/")
    cookie = came.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert to.get("/").status_code == 200  # the client has kept the cookie
    assert post(to, "next", annotator="ann")["items"]
    assert post(to, "next", 403, {**OWN, "Origin": "http://evil.example"}, annotator="ann")
    other = client(made, rules)
    assert other.get("/", headers={"Authorization": "Bearer s3cret"}).status_code == 200
    assert other.get("/", headers={"Authorization": "Bearer s3cre"}).status_code == 401
    assert other.get("/", headers={"Cookie": "annotate_8765=wrong"}).status_code == 401
    assert other.get("/", headers={"Cookie": 'a="\\'}).status_code == 401


def test_the_address_has_the_token_and_fits_a_browser():
    assert Rules("127.0.0.1", 80).url == "http://127.0.0.1:80/"
    assert Rules("::1", 80).url == "http://[::1]:80/"
    assert Rules("0.0.0.0", 80, "t").url == "http://127.0.0.1:80/?token=t"
