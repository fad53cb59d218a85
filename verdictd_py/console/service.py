"""The service `verdictd.v1.ConsoleService`: links for callers on the broker's host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py._generated import verdictd_v1_pb2_grpc as services
from verdictd_py.console.sessions import LINK_SECONDS, Sessions
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import ConsoleLinkCreated
from verdictd_py.errors import NotAuthorized, NotFound
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.calls import GrpcService, answered
from verdictd_py.ports import Events

_CERTIFICATE: Final = "certificate "


class ConsoleService(GrpcService, services.ConsoleServiceServicer):
    """Service for the sign-in to the console.

    Args:
        sessions: the sessions of the console.
        url: returns the URL of the console without a path; empty if there is no console.
        with_certificates: whether people sign in with client certificates instead.
    """

    def __init__(
        self,
        rules: CallerRules,
        events: Events,
        sessions: Sessions,
        url: Callable[[], str],
        *,
        with_certificates: bool,
    ) -> None:
        super().__init__(rules, events)
        self._sessions = sessions
        self._url = url
        self._with_certificates = with_certificates

    @answered("verdictd.v1 CreateLink")
    async def CreateLink(  # noqa: N802  # name of the wire
        self, request: messages.CreateLinkRequest, caller: Caller
    ) -> messages.Link:
        del request
        caller.require(Right.MANAGE)
        url = self._url()
        if not url:
            raise NotFound("this broker has no console; start it with --console 127.0.0.1:8444")
        if self._with_certificates:
            raise NotAuthorized(
                f"people sign in to the console at {url} with their client certificates; open it"
            )
        if caller.name.startswith(_CERTIFICATE):
            # The role of a certificate can end at any time, and a session would not notice.
            raise NotAuthorized(
                "a link is for callers on the broker's host: call through the unix socket or on "
                "loopback, or serve the console with TLS, where certificates sign in"
            )
        await self.events.commit(ConsoleLinkCreated(caller=caller.name))
        person = Caller(f"{caller.name} (console)", caller.rights)
        link = f"{url}/login?code={self._sessions.link(person)}"
        return messages.Link(url=link, valid_seconds=int(LINK_SECONDS))

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service to a server."""
        services.add_ConsoleServiceServicer_to_server(self, server)
