"""gRPC listener on a unix socket, on loopback, or with TLS and client certificates."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from verdictd_py.config import Address
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import sockets
from verdictd_py.listeners.admission import CALLS_OF_ALL, CALLS_OF_CONNECTION, Admission
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.errors import MessageInterceptor
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.reread import Reread
from verdictd_py.listeners.tls import TlsFiles
from verdictd_py.ports import Events

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of a message: 1 MiB of optsdata as an array of integers, with up to four
characters per byte, and a reserve."""

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a second daemon must fail instead of sharing the port
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", CALLS_OF_CONNECTION),
    # Servers open no connections, except for what gRPC may add: never through a proxy.
    ("grpc.enable_http_proxy", 0),
    # Bytes of a call that gRPC receives before the call is admitted and reads its message.
    ("grpc.http2.lookahead_bytes", 64 * 1024),
    ("grpc.http2.bdp_probe", 0),  # would raise that up to 16 MiB
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.absolute_max_metadata_size", 32 * 1024),
    # A connection costs a file descriptor and some 100 KiB.
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
    """

    def __init__(
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
    ) -> None:
        self.name = name
        self.address = addresses[0]
        self._addresses = tuple(addresses)
        self._register = register
        self._described = tuple(described)
        self._admission = Admission(rules or CallerRules(), events)
        self._connections = connections
        self._tls = tls
        self._option = "--" + name.replace("_", "-")
        self._server: grpc.aio.Server | None = None
        self._started = False
        self._health: Any = None  # grpc's stubs lack the asynchronous servicer

    @property
    def endpoint(self) -> str:
        return str(self.address)

    def bind(self) -> None:
        server = grpc.aio.server(
            options=[*_OPTIONS, ("grpc.max_allowed_incoming_connections", self._connections)],
            maximum_concurrent_rpcs=CALLS_OF_ALL,
            interceptors=(self._admission, MessageInterceptor()),
        )
        *preferred, last = self._addresses
        address = next((address for address in preferred if sockets.exists(address)), last)
        bind = self._bind_unix if address.unix else self._bind_tcp
        self.address = bind(server, address)
        self._server = server

    async def start(self, background: Background | None = None) -> None:
        del background  # gRPC has threads of its own
        if self._server is None:
            return
        rules = replace(self._admission.rules, listener=self.address)
        self._admission.rules = rules
        self._register(self._server, rules)
        if self._described:
            await self._describe(self._server)
        self._started = True
        await self._server.start()
        rules.require_identification()

    async def set_ready(self, detail: str, *, ready: bool) -> None:
        """Set `PINNED` or a detail of `served`, which clients query by its name."""
        if self._health is not None:
            status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
            await self._health.set(detail, status)

    async def stop(self, seconds: float) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        if not self._started:
            # gRPC releases the address of a server that was never started neither in stop() nor
            # when the server is deleted. This one has no services: no call is answered.
            await server.start()
            seconds = 0
        self._admission.end_undrained()
        await server.stop(seconds)

    async def _describe(self, server: grpc.aio.Server) -> None:
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # as above
        add_HealthServicer_to_server(self._health, server)
        for name in (*self._described, health.OVERALL_HEALTH):
            await self._health.set(name, HealthCheckResponse.SERVING)
        for detail in READINESS_DETAILS:
            await self._health.set(detail, HealthCheckResponse.NOT_SERVING)
        names = (*self._described, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

    def _bind_tcp(self, server: grpc.aio.Server, address: Address) -> Address:
        sockets.probe(address, option=self._option)
        try:
            if self._tls is None:
                port = server.add_insecure_port(str(address))
            else:
                port = server.add_secure_port(str(address), _credentials(self._tls))
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {address}: the address is in use; choose another {self._option}"
            ) from error
        return Address(address.host, port)

    def _bind_unix(self, server: grpc.aio.Server, address: Address) -> Address:
        path = Path(address.unix)
        _remove_stale(path, option=self._option)
        before = os.umask(0o177)
        try:
            # As for TCP: gRPC does not say why it could not bind, and logs a line of its own.
            with socket.socket(socket.AF_UNIX) as probing:
                probing.bind(str(path))
            path.unlink()
            server.add_insecure_port(f"unix:{path}")
        except OSError as error:
            raise sockets.explain_bind_failure(str(address), error, option=self._option) from error
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {address}: another program took the path; "
                f"choose another {self._option}"
            ) from error
        finally:
            os.umask(before)
        return address


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
