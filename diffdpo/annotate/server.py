"""The web server of the page: a few addresses, one thread for all that changes something."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from diffdpo.annotate.guard import Guard, Rules
from diffdpo.annotate.session import Refused, Session
from diffdpo.data.cells import BadImage
from diffdpo.engine.console import say
from diffdpo.errors import UserError, short

PAGE = Path(__file__).parent / "page"
FILES = {"/": "index.html"} | {
    f"/{name}": name for name in ("page.css", "item.js", "page.js", "icon.svg")
}
FULL = 507  # HTTP's word for a disk that takes no more
FIELDS = {"annotator": str, "pair": int, "visit": int, "choice": str, "ms": int}
Act = Callable[..., dict[str, Any]]


def application(session: Session, rules: Rules) -> ASGIApp:
    """The page and what it asks for, behind the guard."""
    routes = [Route(path, partial(page_file, name)) for path, name in FILES.items()]
    acts: dict[str, tuple[Act, list[str]]] = {
        "next": (session.next, ["annotator"]),
        "vote": (session.vote, list(FIELDS)),
        "undo": (session.undo, ["annotator"]),
    }
    for name, (act, fields) in acts.items():
        routes.append(Route(f"/api/{name}", partial(answer, act, fields), methods=["POST"]))
    path = "/media/{pair:int}/{visit:int}/{place:int}"
    routes.append(Route(path, partial(media, session)))
    return Guard(Starlette(routes=routes), rules)


async def page_file(name: str, request: Request) -> Response:
    """A file of the page."""
    return FileResponse(PAGE / name)


async def answer(act: Act, fields: list[str], request: Request) -> Response:
    """What ``act`` answers to the fields of the body; everything that votes is done here, one
    request after another."""
    try:
        given = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        given = None
    if not isinstance(given, dict) or set(given) != set(fields):
        return problem(400, f"wanted is an object with {', '.join(fields)}")
    for name in fields:
        if type(given[name]) is not FIELDS[name]:
            return problem(400, f"{name} is no {FIELDS[name].__name__}")
    try:
        return JSONResponse(act(**given))
    except Refused as refusal:
        return problem(refusal.status, str(refusal))
    except OSError as error:
        say(f"not saved    {short(error)}; the page has stopped until that is mended")
        return problem(FULL, f"the choice could not be saved: {error.strerror or short(error)}")


async def media(session: Session, request: Request) -> Response:
    """A picture or video by its numbers."""
    numbers = [request.path_params[name] for name in ("pair", "visit", "place")]
    name = request.query_params.get("as", "")
    try:
        # Decoding takes a while: the next choice must not wait for it.
        found = await run_in_threadpool(session.media, name, *numbers)
    except Refused as refusal:
        return problem(refusal.status, str(refusal))
    except BadImage as error:
        say(f"unreadable   pair {numbers[0]}: {short(error, 200)}")
        return problem(422, "it cannot be read")
    return part_of(found.body, found.type, request.headers.get("range", ""))


def part_of(body: bytes, type: str, asked: str) -> Response:
    """The bytes that a Range header asks for, as players do; all of them where there is none."""
    unit, _, span = asked.partition("=")
    start, _, end = span.partition("-")
    if unit != "bytes" or not start.isdigit() or not (end.isdigit() or not end):
        return Response(body, media_type=type, headers={"Accept-Ranges": "bytes"})
    first, last = int(start), min(int(end or len(body) - 1), len(body) - 1)
    if first > last:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(body)}"})
    where = f"bytes {first}-{last}/{len(body)}"
    headers = {"Accept-Ranges": "bytes", "Content-Range": where}
    return Response(body[first : last + 1], 206, headers, type)


def problem(status: int, why: str) -> JSONResponse:
    """An answer that says what is wrong."""
    return JSONResponse({"error": why}, status)


def listening(host: str, port: int) -> socket.socket:
    """A socket on which a server may accept; port 0 is any free one. Raises UserError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(128)
        return found
    except OSError as error:
        raise UserError(
            f"--host {short(host)} --port {port}: cannot be served on ({short(error)}); --port 0"
            " takes any free one"
        ) from error


class Server(uvicorn.Server):
    """A server that ends at Ctrl-C or SIGTERM, and leaves the rest of the command to be done."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again at the end."""

        def stop(number: int, frame: Any) -> None:
            self.should_exit = True

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


def configured(app: ASGIApp) -> uvicorn.Config:
    """A server that prints nothing, tells nobody what it is, and does not wait for pages that stay
    open when it ends."""
    options: dict[str, Any] = {"log_level": "warning", "access_log": False, "lifespan": "off"}
    options |= {"server_header": False, "proxy_headers": False, "timeout_graceful_shutdown": 2}
    return uvicorn.Config(app, **options)


def serve(app: ASGIApp, found: socket.socket) -> None:
    """Serve until a signal ends it."""
    Server(configured(app)).run(sockets=[found])
