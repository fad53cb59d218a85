"""Pages of the web console as files for tickets: `status --html`, `explain --html`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed, write
from verdictd_py.console.frame import Frame
from verdictd_py.console.language import preferred
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.pages_guests import guest_values
from verdictd_py.console.pages_overview import overview_values
from verdictd_py.console.rendering import standalone
from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Site
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.tees.registry import known_tees

_SERVICES: Final = {
    "verdictd.v1.AppraisalService": "appraisals",
    "verdictd.v1.ReferenceService": "references",
    "verdictd.v1.StatusService": "about",
}


class _Remote:
    """The management API of a broker over gRPC, as pages call it (`requests.Calls`)."""

    caller = Caller("verdict-py", ROLES["operator"])  # the broker decides about each call

    def __init__(self, client: BrokerClient) -> None:
        self._client = client

    async def call(self, method: str, request: Message) -> Any:  # noqa: ANN401  # of that method
        service, _, name = method.partition("/")
        stub = getattr(self._client, _SERVICES[service])
        try:
            return await self._client.call(getattr(stub, name), request)
        except BrokerFailed as error:
            if not error.answered:
                raise
            raise OperationFailed(grpc.StatusCode.UNKNOWN, str(error)) from error


async def write_status(client: BrokerClient, status: v1.Status, file: Path, lang: str) -> None:
    """Write the overview.

    Args:
        lang: languages of the person, as in `Accept-Language`.

    Raises:
        BrokerFailed: the broker refused a request.
        ConfigError: the file cannot be written.
    """
    visit, site = _visit(client, "/", lang), _site()
    try:
        values = await overview_values(site, visit, status)
    except OperationFailed as error:
        raise BrokerFailed(error.text, answered=True) from error
    _write(file, "overview.html", visit, values)


async def write_guest(client: BrokerClient, guest_id: str, file: Path, lang: str) -> None:
    """Write the page of one guest.

    Raises:
        BrokerFailed: the broker refused a request.
        ConfigError: the file cannot be written.
    """
    visit, site = _visit(client, f"/guests/{guest_id}", lang), _site()
    try:
        values = await guest_values(site, visit, guest_id)
    except OperationFailed as error:
        raise BrokerFailed(error.text, answered=True) from error
    _write(file, "guest.html", visit, values)


def _visit(client: BrokerClient, path: str, lang: str) -> Visit:
    return Visit(path, preferred(lang), None, _Remote(client), "")


def _site() -> Site:
    tees = known_tees()
    meanings = {tee.name: {n: c.meaning for n, c in tee.claims.items()} for tee in tees}
    return Site(
        broker="",
        pages={},
        changes={},
        read_only=True,
        signs_out=False,
        meanings=lambda tee: meanings.get(tee, {}),
        tees=tees.names,
        measurements=lambda tee: meanings.get(tee, {}),
        policy="",
    )


def _write(file: Path, template: str, visit: Visit, values: dict[str, Any]) -> None:
    frame = Frame("verdict-py", path=visit.path)
    values = {"problem": "", "done": "", **values, "frame": frame}
    write(file, standalone(template, visit.language, values).encode(), option="--html")
