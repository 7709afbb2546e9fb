"""What every request has to pass before the page's own code sees it.

The page is served to people whom its host chose, in browsers that visit other pages as well. A
foreign page must neither vote nor read: the Host header stops names that were made to point here
(DNS rebinding), the Origin header and the type of the body stop forms and scripts of others, the
token stops whoever merely finds the port.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 4096
JSON = "application/json"
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ANY = ("0.0.0.0", "::")
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_address(host: str) -> bool:
    """Whether a host is a number and not a name."""
    try:
        return bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def name_in(header: str) -> str:
    """The host of a Host header, without its port and brackets, in small letters."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    name, colon, port = header.rpartition(":")
    return (name if colon and port.isdigit() else header).rstrip(".").lower()


@dataclass(frozen=True)
class Rules:
    """Where the page is served and to whom: ``host`` and ``port``, and the token, if any."""

    host: str
    port: int
    token: str | None = None
    names: frozenset[str] = field(init=False)  # of this machine, that a request may be sent to

    def __post_init__(self) -> None:
        own = {self.host.lower(), *LOOPBACK}
        if self.host in ANY:
            own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        object.__setattr__(self, "names", frozenset(own))

    @property
    def cookie(self) -> str:
        """The name of the cookie; cookies of all ports of a machine share their names."""
        return f"annotate_{self.port}"

    @property
    def url(self) -> str:
        """The address to open."""
        host = "127.0.0.1" if self.host == ANY[0] else "::1" if self.host == ANY[1] else self.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server. The port may be another one, of a tunnel.

        Under an address for all networks any number will do: what has to be refused are names, as
        only these can be made to point here by somebody else.
        """
        name = name_in(host)
        return name in self.names or (self.host in ANY and is_address(name))

    def fits(self, given: str) -> bool:
        """Whether a token is the right one, in a time that does not depend on it."""
        return hmac.compare_digest(given.encode(), str(self.token).encode())


class Guard:
    """Answers what must not pass, and puts the headers above on every answer."""

    def __init__(self, app: ASGIApp, rules: Rules) -> None:
        self.app, self.rules = app, rules

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self.refusal(scope)
        if answer is None and scope["method"] == "POST":
            body = await small_body(receive)
            if body is None:
                answer = refused(413, f"a body may have {LARGEST_BODY} bytes")
            else:
                receive = again(body)
        await (answer or self.app)(scope, receive, with_headers)

    def refusal(self, scope: Scope) -> Response | None:
        """The answer to a request that must not pass; None for one that may."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self.rules.knows(host):
            return refused(403, "this server has another name")
        if scope["method"] == "POST":
            if headers.get("origin") not in (f"http://{host}", f"https://{host}"):
                return refused(403, "requests come from the page itself")
            if headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
                return refused(415, f"a body is {JSON}")
            length = headers.get("content-length", "0")
            if not length.isdigit() or int(length) > LARGEST_BODY:
                return refused(413, f"a body may have {LARGEST_BODY} bytes")
        return self.unknown_person(scope, headers) if self.rules.token else None

    def unknown_person(self, scope: Scope, headers: Headers) -> Response | None:
        """The answer to a request without the token. One with the token in its address gets a
        cookie, and an address without it, which can be shown and does not end up in a history."""
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if scope["path"] == "/" and self.rules.fits(query.get("token", [""])[0]):
            # Lax: a link from a message is followed from another site, and its cookie is needed at
            # once. What changes something is checked for its Origin.
            answer = RedirectResponse("/", 303)
            answer.set_cookie(
                self.rules.cookie, str(self.rules.token), httponly=True, samesite="lax"
            )
            return answer
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer if scheme.lower() == "bearer" else ""
        if self.rules.fits(given) or self.rules.fits(cookie_in(headers, self.rules.cookie)):
            return None
        return refused(401, "open the address with its token, as it was printed")


def cookie_in(headers: Headers, name: str) -> str:
    """The value of a cookie; '' where there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def refused(status: int, why: str) -> JSONResponse:
    """The answer to a request that does not pass."""
    return JSONResponse({"error": why}, status)


async def small_body(receive: Receive) -> bytes | None:
    """The body of a request; None where it is too large, whatever length it announced."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body"):
            return body


def again(body: bytes) -> Receive:
    """A channel with a body that was read from another."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive
