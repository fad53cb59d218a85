"""All pages and changes of the console, by method and path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import quote

import grpc

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.frame import Frame
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.rendering import render
from verdictd_py.console.requests import Visit
from verdictd_py.console.sources import Sources
from verdictd_py.offload import LARGE, offload

STATUS: Final = "verdictd.v1.StatusService/GetStatus"

_HTTP: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a request.

    Attributes:
        body: the page; empty for a redirection.
        location: path to go to after a change; empty for a page.
        headers: further headers.
    """

    body: str = ""
    status: int = 200
    location: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


P = ParamSpec("P")
Result = TypeVar("Result")

Page = Callable[["Site", Visit], Awaitable[Answer]]
Change = Callable[["Site", Visit], Awaitable[str]]
"""Makes a change, and returns the path of the page that displays its result."""

FailedPage = Callable[["Site", Visit, str, int], Awaitable[Answer]]
"""Makes a page again, with the reason why a change was refused and the status of HTTP."""


def http_status(error: OperationFailed) -> int:
    """Return the status of HTTP for a failed operation."""
    return _HTTP.get(error.status, 500)


@dataclass(frozen=True, slots=True)
class Site:
    """The pages of one console.

    Attributes:
        broker: name of the broker's host.
        pages: pages by the pattern of their path.
        changes: changes by the pattern of the path of their form.
        read_only: whether all changes are refused.
        signs_out: whether people sign in with links.
        meanings: returns the meaning of each claim of a TEE.
        tees: names of the TEEs, the most usual one first.
        measurements: returns the meanings of the claims that identify software, by name.
        policy: name of the policy that is displayed first.
        forms: pages with the form of each change, by the same patterns.
        sources: data that the management API has no method for.
    """

    broker: str
    pages: Mapping[str, Page]
    changes: Mapping[str, Change]
    read_only: bool
    signs_out: bool
    meanings: Callable[[str], Mapping[str, str]]
    tees: tuple[str, ...]
    measurements: Callable[[str], Mapping[str, str]]
    policy: str
    forms: Mapping[str, tuple[str, FailedPage]] = field(default_factory=dict)
    sources: Sources = field(default_factory=Sources)

    def page_of_change(self, path: str) -> tuple[str, FailedPage] | None:
        """Return the page with the form of a change: its path's pattern, and what makes it."""
        return self.forms.get(path)

    async def frame(self, visit: Visit) -> Frame:
        """Return what is around a page for this person.

        Raises:
            OperationFailed: the person is not allowed to see anything.
        """
        status = await visit.operations.call(STATUS, v1.GetStatusRequest())
        return self._frame(visit, status)

    def _frame(self, visit: Visit, status: v1.Status) -> Frame:
        session = visit.session
        return Frame(
            broker=self.broker,
            person="" if session is None else visit.caller.name,
            rights=visit.caller.rights,
            read_only=self.read_only,
            changes=session is not None and not self.read_only,
            signs_out=self.signs_out,
            **({} if session is None else {"token": session.new_tokens()}),
            now=datetime.now(UTC).isoformat(),
            path=visit.path,
            query=visit.query,
            status=status,
        )

    async def page(
        self,
        visit: Visit,
        frame: Frame,
        template: str,
        values: Mapping[str, Any],
        *,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return a page for a person who is signed in; it is rendered in a thread.

        A long list takes tenths of a second.
        """
        rendered = partial(self._rendered, visit, frame, template, values)
        body = await offload(LARGE, rendered)
        if visit.session is not None:
            visit.session.accept(frame.token.made)
        return Answer(body, status, headers=headers or {})

    @staticmethod
    def _rendered(visit: Visit, frame: Frame, template: str, values: Mapping[str, Any]) -> str:
        return render(template, visit.language, {**_NOTHING, **values, "frame": frame})

    def bare(
        self, visit: Visit, template: str, values: Mapping[str, Any], *, status: int = 200
    ) -> Answer:
        """Return a page without data of the broker: sign-in and errors."""
        frame = self._frame(visit, v1.Status())
        body = self._rendered(visit, frame, template, values)
        if visit.session is not None:
            visit.session.accept(frame.token.made)
        return Answer(body, status)


_NOTHING: Final[Mapping[str, Any]] = {"standalone": None, "problem": "", "done": ""}


async def computed(view: Callable[P, Result], *values: P.args, **named: P.kwargs) -> Result:
    """Return what a function makes from all guests, in a thread: this takes up to 0.2 s.

    Args:
        view: a function that uses nothing of the event loop.
    """
    return await offload(LARGE, partial(view, *values, **named))


async def gather(*calls: Awaitable[Any]) -> list[Any]:
    """Await several operations at the same time."""
    return list(await asyncio.gather(*calls))


def path_of(guest: str) -> str:
    """Return the path of the page of one guest."""
    return f"/guests/{quote(guest, safe='')}"
