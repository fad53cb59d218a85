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
from verdictd_py.listeners.callers import CallerRules
from verdictd_py.listeners.errors import InvalidMessageInterceptor
from verdictd_py.listeners.listener import Background
from verdictd_py.listeners.tls import TlsFiles

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""Maximum size of a message: 1 MiB of optsdata as an array of integers, with up to four
characters per byte, and a reserve."""

_MAX_CONCURRENT_CALLS: Final = 256

PINNED: Final = "verdictd.pinned"
"""Whether every measurement has reference values. While one has not, guests are accepted
whatever it measures."""

DOCUMENTS: Final = "verdictd.documents"
"""Whether every document that decides can be used. While one cannot, guests or releases are
refused."""

READINESS_DETAILS: Final = (PINNED, DOCUMENTS)
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
        described: full names of those services, for gRPC's health and reflection, which every
            client that can connect may use; empty for neither.
        rules: how callers are identified.
        tls: files for mutual TLS, None without TLS.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[Address],
        register: Register,
        *,
        described: Sequence[str] = (),
        rules: CallerRules | None = None,
        tls: TlsFiles | None = None,
    ) -> None:
        self.name = name
        self.address = addresses[0]
        self._addresses = tuple(addresses)
        self._register = register
        self._described = tuple(described)
        self._rules = rules or CallerRules()
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
            options=[
                ("grpc.so_reuseport", 0),  # a second daemon must fail instead of sharing the port
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", _MAX_CONCURRENT_CALLS),
            ],
            maximum_concurrent_rpcs=_MAX_CONCURRENT_CALLS,
            interceptors=(InvalidMessageInterceptor(),),
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
        self._register(self._server, replace(self._rules, listener=self.address))
        if self._described:
            await self._describe(self._server)
        self._started = True
        await self._server.start()

    def reload(self) -> None:
        """Do nothing: gRPC cannot change its certificate while it runs."""

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


def _credentials(tls: TlsFiles) -> Any:  # noqa: ANN401  # grpc's stubs do not name the type
    return grpc.ssl_server_credentials(
        [(tls.key, tls.certificate)], root_certificates=tls.ca, require_client_auth=True
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
