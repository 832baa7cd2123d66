"""Who comes in: every request passes here first, and what is not allowed expressly is refused.

What each check is against:

- The name in `Host` is compared with a list: a page of somebody else's whose name has been made to mean this
  address (DNS rebinding) has another one. Its port says nothing, and differs behind a tunnel.
- A request that a page has made says so in `Origin` or `Sec-Fetch-Site`: it has to be one of ours. Cookies
  alone do not tell, since a browser sends them to every port of a machine.
- What changes something is any method but GET and HEAD, and needs an `Origin`, which every browser sends.
- Tokens have 256 random bits, so that nobody guesses one. The limit on wrong ones keeps the load and the log
  down, and shuts nobody out: a right one always enters.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .tokens import Held, Role, Tokens

LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
SAFE = ("GET", "HEAD")
PAGES = re.compile(r"/|/compare|/runs/[^/]+")
"""The addresses that a person opens."""
OPEN = frozenset({"/login", "/static/login.js", "/static/style.css", "/static/icon.svg"})
"""What is there for those without a token, beside the page that asks for it."""
COOKIE_SECONDS = 365 * 86400
WRONG_TOKENS, WRONG_SECONDS = 10, 60.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Limit:
    """How often something may happen within some seconds, for each of many; the oldest are forgotten."""

    MOST = 1000

    def __init__(self, count: int, seconds: float) -> None:
        self._count, self._seconds = count, seconds
        self._times: dict[str, deque[float]] = {}

    def reached(self, who: str) -> bool:
        """Whether it may not happen now."""
        times = self._times.get(who, ())
        return sum(time.monotonic() - when < self._seconds for when in times) >= self._count

    def count(self, who: str) -> None:
        """It has happened."""
        times = self._times.pop(who, None) or deque(maxlen=self._count)
        times.append(time.monotonic())
        self._times[who] = times
        if len(self._times) > self.MOST:
            del self._times[next(iter(self._times))]


@dataclass(frozen=True, slots=True)
class Access:
    """What the guard goes by.

    Args:
        held: the two secrets.
        port: of the server; the cookie is named with it, since ports of one machine share their cookies.
        hosts: names under which the page may be asked for, beside those of loopback; lower case, an IPv6
            address in brackets.
        secure: whether the server speaks TLS.
    """

    held: Held
    port: int
    hosts: frozenset[str] = frozenset()
    secure: bool = False
    wrong: Limit = field(default_factory=lambda: Limit(WRONG_TOKENS, WRONG_SECONDS))

    @property
    def tokens(self) -> Tokens:
        """The two secrets, as they are now."""
        return self.held.now

    @property
    def cookie(self) -> str:
        """Its name."""
        return f"autotune-{self.port}"

    def sign_in(self, response: Response, token: str) -> Response:
        """Have the browser keep the token."""
        response.set_cookie(
            self.cookie,
            token,
            max_age=COOKIE_SECONDS,
            httponly=True,
            samesite="strict",
            secure=self.secure,
        )
        return response

    def mistaken(self, who: str) -> Response | None:
        """Somebody has shown a wrong token; what is answered to too many."""
        if self.wrong.reached(who):
            return refused(429, "too many wrong tokens; wait a minute")
        self.wrong.count(who)
        return None


class Guard:
    """Lets in what is allowed, with `role` in the scope's state.

    Args:
        app: what it guards.
        access: what it goes by.
        sign_in: the page that asks for a token.
    """

    def __init__(self, app: ASGIApp, access: Access, sign_in: bytes) -> None:
        self._app = app
        self._access = access
        self._page = sign_in

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        if scope["type"] != "http":  # the server has no web sockets, and nothing to do at its start
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if message["status"] >= 400:  # what is left of the body is not waited for
                    headers["Connection"] = "close"
            await send(message)

        app: ASGIApp = self._refusal(scope) or self._app
        await app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        """What is answered to a request that may not pass."""
        headers, method, path = Headers(scope=scope), scope["method"], scope["path"]
        if (refusal := self._foreign(scope, headers)) is not None:
            return refused(403, refusal)
        if method not in (*SAFE, "POST"):
            return refused(405, f"the page knows GET, HEAD and POST, got {method}")
        page = method in SAFE and PAGES.fullmatch(path) is not None
        who = scope["client"][0] if scope.get("client") else ""
        if page and (entering := self._enter(scope, who)) is not None:
            return entering
        shown = list(cookies(headers.getlist("cookie"), self._access.cookie))
        tokens = self._access.tokens
        role: Role | None = tokens.role(shown)
        scope.setdefault("state", {}).update(role=role, tokens=tokens)
        if role is None and page and headers.get("sec-fetch-site") == "cross-site":
            # A strict cookie is not sent along with a link on another site, but with what this page asks for.
            return Response(headers={"Refresh": "0"})
        if role is None and path not in OPEN:
            return self._ask(who, page, bool(shown))
        if method not in SAFE and role != "write" and path not in OPEN:
            return refused(403, "this link is for looking on; ask for the other one to change something")
        return None

    def _foreign(self, scope: Scope, headers: Headers) -> str | None:
        """Why the request is not one that a person has made on our own page."""
        hosts = headers.getlist("host")
        name = hostname(hosts[0]) if len(hosts) == 1 else None
        if name is None or name not in LOOPBACK | self._access.hosts:
            return "the page is not known under this name; `autotune ui --allow-host NAME` adds one"
        own = f"{'https' if self._access.secure else 'http'}://{hosts[0].lower()}"
        origins, method, path = headers.getlist("origin"), scope["method"], scope["path"]
        if any(origin != own for origin in origins) or (method not in SAFE and not origins):
            return "the request comes from another page"
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none"):
            # A link on somebody's page may lead here; nothing else of theirs may ask for anything.
            opened = (
                headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            )
            if not (opened and method in SAFE and PAGES.fullmatch(path)):
                return "the request comes from another site"
        return None

    def _enter(self, scope: Scope, who: str) -> Response | None:
        """A link with a token: keep it, and take it out of the address, which is shown in many places."""
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if not given:
            return None
        rest = urlencode([pair for pair in query if pair[0] != "token"])
        place = quote(scope["path"]) + (f"?{rest}" if rest else "")
        entered = Response(status_code=303, headers={"Location": place})
        if self._access.tokens.role(given[:1]) is not None:
            return self._access.sign_in(entered, given[0])
        return self._access.mistaken(who) or entered

    def _ask(self, who: str, page: bool, wrong: bool) -> Response:
        """For a token."""
        if wrong and (refusal := self._access.mistaken(who)) is not None:
            return refusal
        if page:
            return Response(self._page, 401, media_type="text/html")
        return refused(401, "this needs a token; open the link that `autotune ui` has printed")


def hostname(host: str) -> str | None:
    """The name in a `Host`, in lower case and without its port; None where there is none."""
    found = re.fullmatch(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", host.lower())
    return found[1] if found else None


def cookies(headers: Iterable[str], name: str) -> Iterable[str]:
    """The values of one cookie."""
    for header in headers:
        for pair in header.split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                yield value


def refused(status: int, why: str) -> Response:
    """A request that was not served, in words."""
    return JSONResponse({"error": why}, status)
