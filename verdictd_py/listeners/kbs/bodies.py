"""Bodies of requests. A route receives the body once it knows that the client may send one."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from verdictd_py.listeners.kbs.connections import Connection
from verdictd_py.listeners.kbs.timelimit import within
from verdictd_py.listeners.limits import Limits

LIMITS: Final = web.AppKey("limits", Limits)
"""Limits of the listener, in the application."""


async def receive(request: web.Request) -> bytes:
    """Receive the body of a request within the time limit.

    Raises:
        web.HTTPException: it is too large, came too slowly, or cannot be read.
        ConnectionResetError: the client disconnected.
    """
    try:
        body = await within(request.app[LIMITS].request, request.read())
    except TimeoutError:
        raise web.HTTPRequestTimeout(reason="the body came too slowly") from None
    except web.RequestPayloadError:
        raise web.HTTPBadRequest(reason="the body cannot be read") from None
    except RuntimeError:  # raised by the library if the client has disconnected
        if is_disconnected(request):
            raise ConnectionResetError from None
        raise
    if isinstance(request.protocol, Connection):
        request.protocol.received()
    return body


def is_disconnected(request: web.Request) -> bool:
    """Return whether the client has disconnected."""
    return request.transport is None or request.transport.is_closing()
