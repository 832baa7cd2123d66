"""The page's addresses, and what is answered at each."""

from __future__ import annotations

import dataclasses
import math
from importlib.metadata import version
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from ..commands import EXPIRES_SECONDS, Command, command
from ..journal import JournalError
from ..records import TuneError, action_from_json
from ..remote import login
from ..runs import UnknownRun
from .bodies import BadRequest, Json, json_body
from .events import Watches
from .guard import Access, Guard, Limit, refused
from .series import Axis
from .store import Store
from .view import View

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".txt": "text/plain",
}
"""Of the files that the page is made of; others are not served."""
COMMANDS, COMMANDS_SECONDS = 30, 10.0
"""A person taps less often."""
DECISIONS, SIGNALS, PIXELS = 1000, 50, 5000
"""The most that is given at once."""
WORDS, SEARCH = 20, 200
"""The most that is searched for at once, and its characters."""


def make_app(store: Store, access: Access, watches: Watches) -> ASGIApp:
    """The page's server, guarded.

    Args:
        store: the runs that it shows.
        access: who may come in.
        watches: who is told what happens.
    """
    page = Page(store, access, watches)
    run = "/api/runs/{name}"
    routes = [
        *(Route(path, page.index) for path in ("/", "/compare", "/runs/{name}")),
        *(Route(path, page.file) for path in page.files),
        Route("/login", page.login, methods=["POST"]),
        Route("/api/session", page.session),
        Route("/api/runs", page.runs),
        Route("/api/events", page.events),
        Route(run, page.run),
        Route(f"{run}/series", page.series),
        Route(f"{run}/decisions", page.decisions),
        Route(f"{run}/decisions/{{id:int}}", page.decision),
        Route(f"{run}/commands", page.post, methods=["POST"]),
        Route(f"{run}/commands/{{id}}", page.ack),
        Route(f"{run}/events", page.events),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _http_error,
            BadRequest: _bad_request,
            UnknownRun: _unknown_run,
            TuneError: _unreadable,
            JournalError: _unreadable,
            OSError: _unreadable,
        },
    )
    app.router.redirect_slashes = False
    return Guard(app, access, (STATIC / "login.html").read_bytes())


class Page:
    """What is answered. Methods that are not coroutines run in threads, since they read files."""

    def __init__(self, store: Store, access: Access, watches: Watches) -> None:
        self._store = store
        self._access = access
        self._watches = watches
        self._commands = Limit(COMMANDS, COMMANDS_SECONDS)
        self.files = {
            f"/static/{path.relative_to(STATIC).as_posix()}": (path.read_bytes(), TYPES[path.suffix])
            for path in STATIC.rglob("*.*")
            if path.suffix in TYPES
        }
        """By their addresses, as they are at the start; nothing on the disk can be asked for."""

    async def index(self, request: Request) -> Response:
        """The page itself, whatever it is to show."""
        return self._part("/static/index.html")

    async def file(self, request: Request) -> Response:
        """A part of it."""
        return self._part(request.scope["path"])

    def _part(self, address: str) -> Response:
        body, kind = self.files[address]
        return Response(body, media_type=kind)

    async def login(self, request: Request) -> Response:
        """Sign in by a token that was typed."""
        token = (await json_body(request)).get("token")
        who = request.client.host if request.client else ""
        if not isinstance(token, str) or self._access.tokens.role([token]) is None:
            return self._access.mistaken(who) or refused(401, "this is not the token")
        return self._access.sign_in(Response(status_code=204), token)

    def session(self, request: Request) -> Response:
        """Who is there."""
        return Json(
            {
                "write": request.state.role == "write",
                "version": version("autotune-torch"),
                "store": str(self._store),
                "user": login(),
            }
        )

    def runs(self, request: Request) -> Response:
        """The list."""
        return Json({"runs": self._store.runs()})

    def run(self, request: Request) -> Response:
        """One run."""
        return Json(self._view(request).document())

    def series(self, request: Request) -> Response:
        """Some of its curves."""
        query = request.query_params
        names = [name for name in query.get("names", "").split(",") if name][:SIGNALS]
        axis: Axis
        match query.get("axis", "step"):
            case "step" | "spent" as axis:
                pass
            case _:
                raise BadRequest(400, "the axis is step or spent")
        start, end = _number(request, "from"), _number(request, "to")
        pixels = _count(request, "points", 600, PIXELS)
        return Json({"series": self._view(request).series(names, axis, start, end, pixels)})

    def decisions(self, request: Request) -> Response:
        """Some of what was decided."""
        before, limit = _number(request, "before"), _count(request, "limit", 100, DECISIONS)
        search = request.query_params.get("search", "")
        if len(search) > SEARCH or len(set(search.split())) > WORDS:
            raise BadRequest(400, f"a search has at most {WORDS} words and {SEARCH} characters")
        return Json(self._view(request).ledger.page(before, limit, search))

    def decision(self, request: Request) -> Response:
        """One decision."""
        try:
            return Json(self._view(request).ledger.one(request.path_params["id"]))
        except UnknownRun:
            raise
        except TuneError as error:
            raise BadRequest(404, str(error)) from error

    async def post(self, request: Request) -> Response:
        """Leave a command in the run's mailbox."""
        body = await json_body(request)
        sent, name = _command(body), request.path_params["name"]
        if self._commands.reached(request.state.role):
            raise BadRequest(429, "too many commands at once; wait some seconds")
        self._commands.count(request.state.role)
        await run_in_threadpool(self._post, name, sent)
        self._watches.hurry(name)
        return Json({"id": sent.id}, 202)

    def _post(self, name: str, sent: Command) -> None:
        view = self._store.view(name)
        status = view.journal.status()
        if status != "running":
            raise BadRequest(
                409,
                f"commands are for a run that is training, got {name}, which is {status}; "
                "go on with it by AutoTuner.resume, then send them again",
            )
        try:
            view.mailbox.post(sent)
        except TuneError as error:
            raise BadRequest(409, str(error)) from error

    def ack(self, request: Request) -> Response:
        """What has become of a command."""
        ack = self._view(request).mailbox.ack(request.path_params["id"])
        if ack is None:
            raise BadRequest(404, "there is no such command")
        return Json(dataclasses.asdict(ack))

    async def events(self, request: Request) -> Response:
        """What happens, as it happens."""
        name = request.path_params.get("name", "")
        if request.method == "HEAD":
            return Response(media_type="text/event-stream")
        if name:
            await run_in_threadpool(self._store.view, name)
        role, tokens = request.state.role, request.state.tokens
        if self._watches.full(role):
            raise BadRequest(429, "too many pages are open; close some")
        stream = self._watches.stream(name, role, lambda: self._access.tokens == tokens)
        return StreamingResponse(stream, media_type="text/event-stream")

    def _view(self, request: Request) -> View:
        return self._store.view(request.path_params["name"])


def _command(body: dict[str, Any]) -> Command:
    unknown = body.keys() - {"id", "author", "action", "expires_in"}
    if unknown or not isinstance(body.get("action"), dict):
        raise BadRequest(400, "a command has id, author, action (an object) and perhaps expires_in")
    expires_in = body.get("expires_in")
    if expires_in is None:
        expires_in = EXPIRES_SECONDS
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        raise BadRequest(400, "expires_in is a number of seconds")
    try:
        # Without an id it would be another command each time that it is sent.
        return command(
            action_from_json(body["action"]), body.get("author", ""), expires_in, id=str(body.get("id"))
        )
    except (TuneError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise BadRequest(400, str(error)) from error


def _number(request: Request, name: str) -> float | None:
    """A number in the address, if it is there."""
    text = request.query_params.get(name)
    try:
        number = None if not text else float(text)
    except ValueError:
        number = math.nan
    if number is not None and not math.isfinite(number):
        raise BadRequest(400, f"{name} is a number")
    return number


def _count(request: Request, name: str, otherwise: int, most: int) -> int:
    number = _number(request, name)
    return otherwise if number is None else int(min(max(number, 1), most))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return refused(error.status_code, error.detail)


async def _bad_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, BadRequest)
    return refused(error.status, str(error))


async def _unknown_run(request: Request, error: Exception) -> Response:
    return refused(404, str(error))


async def _unreadable(request: Request, error: Exception) -> Response:
    return refused(503, str(error))
