"""What comes in and goes out as JSON."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response


class BadRequest(Exception):
    """A body that cannot be used; `status` and words for the answer."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


BODY_BYTES = 64 * 1024
BODY_SECONDS = 3.0


async def json_body(request: Request) -> dict[str, Any]:
    """The body of a request: a JSON object of at most 64 KiB, which is counted as it comes.

    Raises:
        BadRequest: for anything else.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise BadRequest(415, "a body is application/json")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > BODY_BYTES:
                    raise BadRequest(413, f"a body has at most {BODY_BYTES} bytes")
    except TimeoutError:
        raise BadRequest(400, f"a body arrives within {BODY_SECONDS:.0f} s") from None
    try:
        found = json.loads(body, parse_constant=_no_number, parse_float=_finite)
        json.dumps(found, ensure_ascii=False).encode()  # half a character cannot be stored
    except (ValueError, RecursionError) as error:
        raise BadRequest(400, "a body is JSON, with finite numbers") from error
    if not isinstance(found, dict):
        raise BadRequest(400, "a body is a JSON object")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON")


def _finite(text: str) -> float:
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text} is beyond what a number can hold")
    return number


class Json(Response):
    """Plain values as JSON; NaN and infinities, which it does not have, as null."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes."""
        return to_json(content).encode()


def to_json(content: Any) -> str:
    """Plain values as JSON in one line; NaN and infinities as null."""
    try:
        return json.dumps(content, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(_without_nan(content), allow_nan=False, separators=(",", ":"))


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
