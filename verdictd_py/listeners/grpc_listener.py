"""gRPC listener on a unix socket, on loopback, or with TLS and client certificates."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from verdictd_py.config import Address
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import loopback, sockets
from verdictd_py.listeners.accepting import accept
from verdictd_py.listeners.admission import CALLS_OF_ALL, CALLS_OF_CONNECTION, Admission
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.grpc_connections import GrpcConnections
from verdictd_py.listeners.grpc_methods import UNIMPLEMENTED, Methods
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.private_socket import PrivateSocket
from verdictd_py.listeners.reread import Reread
from verdictd_py.listeners.shares import ShareLimits, Shares
from verdictd_py.listeners.tls import TlsFiles
from verdictd_py.ports import Events
from verdictd_py.stages import Meter

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of a message: 1 MiB of optsdata as an array of integers, with up to four
characters per byte, and a reserve."""

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", CALLS_OF_CONNECTION),
    # Servers open no connections, except for what gRPC may add: never through a proxy.
    ("grpc.enable_http_proxy", 0),
    # Bytes of a call that gRPC receives before the call is admitted and reads its message.
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    ("grpc.http2.bdp_probe", 0),  # would raise that up to 16 MiB
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    # A connection costs file descriptors and some 100 KiB.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 600_000),
    ("grpc.max_connection_age_ms", 3_600_000),
    ("grpc.max_connection_age_grace_ms", 60_000),
    # Clients may send keepalive pings every 10 seconds without calls; the second is for delays.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 9_000),
    ("grpc.http2.max_ping_strikes", 2),
)

MAX_CONNECTIONS: Final = 1024
"""Maximum number of connections of a gRPC listener, which has no more calls."""

PINNED: Final = "verdictd.pinned"
"""Whether every measurement has reference values. While one has not, guests are accepted
whatever it measures."""

DOCUMENTS: Final = "verdictd.documents"
"""Whether every document that decides can be used. While one cannot, guests or releases are
refused."""

STORAGE: Final = "verdictd.storage"
"""Whether the data directory and the sessions can be used."""

READY: Final = "verdictd.ready"
"""Whether the broker can appraise guests and release secrets now, as `/readyz` says."""

READINESS_DETAILS: Final = (PINNED, DOCUMENTS, STORAGE, READY)
"""Names that gRPC's health service knows in addition to those of services, from the start."""


def served(tee: str) -> str:
    """Return the detail that says whether guests of a TEE can be accepted."""
    return f"verdictd.served.{tee}"


Register = Callable[[grpc.aio.Server, CallerRules], None]
"""Adds services to a server; the rules identify the callers of this listener."""


class GrpcListener:
    """gRPC server on one address (see `Listener`).

    Args:
        name: name of the setting with the address; messages name its option.
        addresses: addresses in order of preference. The first that this host has is used,
            otherwise the last.
        register: adds the services; called once the address is known.
        events: where calls that are not admitted are recorded.
        connections: maximum number of connections.
        described: full names of those services, for gRPC's health and reflection, which every
            client that can connect may use; empty for neither.
        rules: how callers are identified.
        tls: files for mutual TLS, which may be read again; None without TLS.
        meter: measures connections; None if nothing is measured.
    """

    def __init__(  # noqa: PLR0913  # its parts, all by keyword
        self,
        name: str,
        addresses: Sequence[Address],
        register: Register,
        *,
        events: Events,
        connections: int = MAX_CONNECTIONS,
        described: Sequence[str] = (),
        rules: CallerRules | None = None,
        tls: Reread[TlsFiles] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.name = name
        self.address = addresses[0]
        self._addresses = tuple(addresses)
        self._register = register
        self._described = tuple(described)
        self._events = events
        self._connections = GrpcConnections(
            ShareLimits.of(connections), events, listener=name, meter=meter
        )
        rules = replace(rules or CallerRules(), peer_of=self._connections.peer)
        called = _not_counted if meter is None else partial(meter.called, name)
        self._called = called
        self._admission = Admission(
            rules, events, self._connections.begin_call, self._connections.correlate, called
        )
        self._tls = tls
        self._option = "--" + name.replace("_", "-")
        self._listening: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._server: grpc.aio.Server | None = None
        self._health: Any = None  # grpc's stubs lack the asynchronous servicer

    @property
    def endpoint(self) -> str:
        return str(self.address)

    @property
    def shares(self) -> Shares:
        """The connections by source."""
        return self._connections.shares

    def bind(self) -> None:
        *preferred, last = self._addresses
        address = next((address for address in preferred if sockets.exists(address)), last)
        if address.unix:
            self._listening = [_bind_unix(Path(address.unix), option=self._option)]
            self.address = address
        else:
            self._listening = _bind_tcp(address, option=self._option)
            self.address = Address(address.host, self._listening[0].getsockname()[1])

    async def start(self, background: Background | None = None) -> None:
        """Serve clients; see `Listener`.

        Args:
            background: runs the accept loop; None outside of the daemon: a task.
        """
        start = background or _start_task
        if not self._listening:
            return
        self._server = server = grpc.aio.server(
            options=_OPTIONS,
            maximum_concurrent_rpcs=CALLS_OF_ALL,
        )
        methods = Methods(self._admission.admit, partial(self._called, UNIMPLEMENTED))
        server.add_generic_rpc_handlers((methods,))
        private = PrivateSocket(partial(self._add_port, server))
        self._connections.serve(private, in_threads=self._slow)
        rules = self._admission.rules
        self._register(methods.server, rules)
        if self._described:
            await self._describe(methods.server)
        await server.start()
        rules.require_identification(self.address)
        for listening in self._listening:
            _set_options(listening)
            run = partial(accept, listening, self._connections.take, self._events)
            self._accepting.append(start(f"{self.name}.accept", run, essential=True))

    async def set_ready(self, detail: str, *, ready: bool) -> None:
        """Set `PINNED` or a detail of `served`, which clients query by its name."""
        if self._health is not None:
            status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
            await self._health.set(detail, status)

    async def stop(self, seconds: float) -> None:
        for task in self._accepting:
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self._unbind()
        self._connections.close_waiting()
        server, self._server = self._server, None
        if server is not None:
            if self._health is not None:
                await self._health.enter_graceful_shutdown()
            self._admission.end_undrained()
            await server.stop(seconds)
        await self._connections.close()

    async def _describe(self, server: grpc.aio.Server) -> None:
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # as above
        add_HealthServicer_to_server(self._health, server)
        for name in (*self._described, health.OVERALL_HEALTH):
            await self._health.set(name, HealthCheckResponse.SERVING)
        for detail in READINESS_DETAILS:
            await self._health.set(detail, HealthCheckResponse.NOT_SERVING)
        names = (*self._described, health.SERVICE_NAME, reflection.SERVICE_NAME)
        servicer = reflection.aio.ReflectionServicer(names)  # type: ignore[attr-defined]  # as above
        add_ServerReflectionServicer_to_server(servicer, server)

    def _unbind(self) -> None:
        if self._listening and self.address.unix:
            Path(self.address.unix).unlink(missing_ok=True)
        for listening in self._listening:
            listening.close()
        self._listening = []

    def _add_port(self, server: grpc.aio.Server, address: str) -> None:
        if self._tls is None or self.address.unix:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, _credentials(self._tls))

    @property
    def _slow(self) -> bool:
        """Whether the owners of loopback connections are searched in the kernel's tables."""
        if self.address.unix:
            return False
        host, port = self._listening[0].getsockname()[:2]
        return not loopback.supports_queries(loopback.Endpoint.of(ipaddress.ip_address(host), port))


def _not_counted(code: str) -> None:
    del code


def _bind_tcp(address: Address, *, option: str) -> list[socket.socket]:
    """Bind an address; `localhost` is both loopback addresses, as far as this host has them."""
    if address.host != "localhost":
        return [sockets.bind(address, option=option)]
    hosts = [host for host in ("127.0.0.1", "::1") if sockets.exists(Address(host, 0))]
    bound: list[socket.socket] = []
    port = address.port
    try:
        for host in hosts:
            bound.append(sockets.bind(Address(host, port), option=option))
            port = bound[0].getsockname()[1]
    except ConfigError:
        for listening in bound:
            listening.close()
        raise
    return bound


def _set_options(listening: socket.socket) -> None:
    """Set the options of each connection; accepted sockets inherit them on Linux."""
    if listening.family != socket.AF_UNIX:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.detect_dead_peer(listening)


def _bind_unix(path: Path, *, option: str) -> socket.socket:
    """Bind a unix socket that only this user, and root, can connect to.

    Raises:
        ConfigError: it cannot be bound; the message has the cause and the remedy.
    """
    _remove_stale(path, option=option)
    listening = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
        listening.listen(0)
    except OSError as error:
        listening.close()
        raise sockets.explain_bind_failure(f"unix:{path}", error, option=option) from error
    finally:
        os.umask(before)
    return listening


def _start_task(
    name: str, run: Callable[[], Awaitable[None]], *, essential: bool = False
) -> asyncio.Task[None]:
    del essential  # no failure is expected, and no one would restart it

    async def running() -> None:
        await run()

    return asyncio.create_task(running(), name=name)


def _credentials(tls: Reread[TlsFiles]) -> Any:  # noqa: ANN401  # grpc's stubs do not name the type
    """Return credentials that follow the files in force, for each new connection."""
    used = tls.current

    def changed() -> Any:  # noqa: ANN401  # as above; called by gRPC before each handshake
        nonlocal used
        current = tls.current
        if current is used:
            return None
        used = current
        return _configuration(current)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(used), changed, require_client_authentication=True
    )


def _configuration(files: TlsFiles) -> Any:  # noqa: ANN401  # as above
    return grpc.ssl_server_certificate_configuration(
        [(files.key, files.certificate)], root_certificates=files.ca
    )


def _remove_stale(path: Path, *, option: str) -> None:
    """Remove a socket that no process listens on, and nothing else.

    Raises:
        ConfigError: a daemon listens there, or it is not a socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise sockets.explain_bind_failure(f"unix:{path}", error, option=option) from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is not a socket; choose another {option}")
    with socket.socket(socket.AF_UNIX) as probe_socket:
        try:
            probe_socket.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise sockets.explain_bind_failure(f"unix:{path}", error, option=option) from error
    raise ConfigError(
        f"cannot listen on unix:{path}: another daemon does; stop it, or choose another {option}"
    )
