"""Common part of all gRPC methods: identification of the caller, and reports of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

import grpc

from verdictd_py.domain.callers import Caller, Right
from verdictd_py.listeners.admission import caller_of
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.errors import abort
from verdictd_py.ports import Events

Context = grpc.aio.ServicerContext[Any, Any]

S = TypeVar("S", bound="GrpcService")
Request = TypeVar("Request")
Response = TypeVar("Response")

Method = Callable[[S, Request, Caller], Coroutine[Any, Any, Response]]
"""Method of a service before decoration: it takes the request and its caller."""

Handler = Callable[[S, Request, Context], Coroutine[Any, Any, Response]]
"""Decorated method, as gRPC calls it."""


class GrpcService:
    """Base class of every service.

    Args:
        rules: how callers of this listener are identified.
        events: where failed requests and bugs are recorded.
    """

    def __init__(self, rules: CallerRules, events: Events) -> None:
        self.rules = rules
        self.events = events


def answered(
    doing: str = "",
    *,
    right: Right = Right.MANAGE,
    shielded: bool = True,
) -> Callable[[Method[S, Request, Response]], Handler[S, Request, Response]]:
    """Decorate a method of a service that takes the request and the caller.

    The decorated method identifies the caller, then runs the method. A `VerdictdError` ends the
    call with the status of the table in `listeners.errors`. Any other exception is a bug:
    it is recorded, and the caller gets the id of the incident, never the exception's text.

    Args:
        doing: the name of the method in events; by default its own name.
        right: right that the caller needs before the message is received and decoded
            (`listeners.admission`).
        shielded: whether a call that is cancelled lasts until the method has ended. A method of
            which every await may be cancelled is faster without.
    """

    def decorate(method: Method[S, Request, Response]) -> Handler[S, Request, Response]:
        name = doing or method.__name__

        @wraps(method)
        async def handler(service: S, request: Request, context: Context) -> Response:
            caller = Caller("not known yet", frozenset())
            try:
                caller = await caller_of(service.rules, context)
                work = method(service, request, caller)
                return await (_complete(work) if shielded else work)
            except Exception as error:  # noqa: BLE001  # recorded, and reported to the client
                await abort(context, service.events, error, doing=name, caller=caller.name)

        handler.right = right  # type: ignore[attr-defined]  # read by `admission.required`
        return handler

    return decorate


async def _complete(work: Coroutine[Any, Any, Response]) -> Response:
    """Await `work`, and complete it even if this call is cancelled meanwhile.

    gRPC cancels a call whose client disconnects. A change that a thread is already writing
    cannot be undone, so it must reach the audit trail before its lock is released. Until then
    the call lasts, and counts towards the limit of concurrent calls.

    Raises:
        CancelledError: the call was cancelled, and `work` has succeeded.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()  # a failure is recorded like any other
        raise
