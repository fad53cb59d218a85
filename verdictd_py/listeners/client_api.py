"""The gRPC listener: a unix socket, loopback, or TLS with client certificates."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from verdictd_py.config import Address, Settings, Unsafe
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.callers import CallerRules, read_roles
from verdictd_py.listeners.errors import UndecodedIsInvalid
from verdictd_py.listeners.sockets import explain_bind_failure, probe
from verdictd_py.listeners.tls import TlsFiles

MAX_MESSAGE_BYTES: Final = 8 * 1024 * 1024
"""1 MiB of optsdata as an array of integers (up to four characters a byte), and room."""

_MAX_CONCURRENT_CALLS: Final = 256

PINNED: Final = "verdictd.pinned"
"""Whether every measurement has reference values: while it has not, any guest is accepted
whatever that measures."""

READINESS_DETAILS: Final = (PINNED,)
"""Names that gRPC's health service knows beside those of services."""


class ClientApi:
    """One gRPC server on one address; services are registered on `server`.

    Args:
        option: the command line option that gives the address, for messages.
    """

    def __init__(self, *, tls: TlsFiles | None, option: str = "--client-api") -> None:
        self._tls = tls
        self._option = option
        self._health: Any = None  # grpc's stubs do not know the asynchronous servicer
        self.server = grpc.aio.server(
            options=[
                ("grpc.so_reuseport", 0),  # a second daemon must fail, not share our port
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_concurrent_streams", _MAX_CONCURRENT_CALLS),
            ],
            maximum_concurrent_rpcs=_MAX_CONCURRENT_CALLS,
            interceptors=(UndecodedIsInvalid(),),
        )

    def bind(self, address: Address) -> Address:
        """Binds, accepts nothing yet.

        Returns:
            The address, with the port the system chose where 0 was asked for.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        if address.unix:
            return self._bind_unix(address)
        probe(address, option=self._option)
        try:
            if self._tls is None:
                port = self.server.add_insecure_port(str(address))
            else:
                port = self.server.add_secure_port(str(address), self._credentials(self._tls))
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {address}: the address is in use; choose another {self._option}"
            ) from error
        return Address(address.host, port)

    async def start(self) -> None:
        await self.server.start()

    async def describe(self, services: Sequence[str]) -> None:
        """Adds gRPC's own services, health and reflection, for everyone who can connect.

        Args:
            services: full names of those that were registered.
        """
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # as above
        add_HealthServicer_to_server(self._health, self.server)
        for name in (*services, health.OVERALL_HEALTH):
            await self._health.set(name, HealthCheckResponse.SERVING)
        for detail in READINESS_DETAILS:
            await self._health.set(detail, HealthCheckResponse.NOT_SERVING)
        names = (*services, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)

    async def set_ready(self, detail: str, *, ready: bool) -> None:
        """Says one of `READINESS_DETAILS` to who asks the health service by its name."""
        if self._health is not None:
            status = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
            await self._health.set(detail, status)

    async def drain(self, seconds: float) -> None:
        """Stops accepting and lets calls in flight finish; health says so first."""
        if self._health is not None:
            await self._health.enter_graceful_shutdown()
        await self.server.stop(seconds)

    def _bind_unix(self, address: Address) -> Address:
        path = Path(address.unix)
        _remove_stale(path, option=self._option)
        before = os.umask(0o177)
        try:
            # As for TCP: gRPC does not say why it could not bind, and logs a line of its own.
            with socket.socket(socket.AF_UNIX) as probing:
                probing.bind(str(path))
            path.unlink()
            self.server.add_insecure_port(f"unix:{path}")
        except OSError as error:
            raise explain_bind_failure(str(address), error, option=self._option) from error
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {address}: something took its place; "
                f"choose another {self._option}"
            ) from error
        finally:
            os.umask(before)
        return address

    @staticmethod
    def _credentials(tls: TlsFiles) -> Any:  # noqa: ANN401  # grpc's stubs do not name the type
        return grpc.ssl_server_credentials(
            [(tls.key, tls.certificate)],
            root_certificates=tls.ca,
            require_client_auth=True,
        )


def protection(settings: Settings, unsafe: Unsafe) -> tuple[CallerRules, TlsFiles | None]:
    """Who may call, and TLS where it is on: on every address that is no unix socket.

    Raises:
        ConfigError: an address is open and nothing protects it.
    """
    files = {
        "--client-api-cert": settings.client_api_cert,
        "--client-api-key": settings.client_api_key,
        "--client-api-ca": settings.client_api_ca,
        "--client-api-roles": settings.client_api_roles,
    }
    cert, key, client_ca, roles = files.values()
    if cert and key and client_ca and roles:
        tls = TlsFiles.read("--client-api", cert, key, client_ca)
        return CallerRules(certificate_roles=read_roles(roles)), tls
    if any(files.values()):
        missing = ", ".join(option for option, file in files.items() if file is None)
        raise ConfigError(
            "TLS for the client API needs all of --client-api-cert, --client-api-key, "
            f"--client-api-ca and --client-api-roles; give the missing ones: {missing}"
        )
    addresses = {"--client-api": settings.client_api_addresses[0]}
    if settings.keyprovider_api_address is not None:
        addresses["--keyprovider-api"] = settings.keyprovider_api_address
    for option, address in addresses.items():
        if not address.local and not unsafe.insecure_client_api:
            raise ConfigError(
                f"{option} {address} can be reached from other hosts and has no TLS; give "
                "--client-api-cert, -key, -ca and -roles, or a loopback address, or unix:/path "
                "(--insecure-client-api gives every caller every key)"
            )
    rules = CallerRules(
        insecure_loopback=unsafe.insecure_loopback, insecure_open=unsafe.insecure_client_api
    )
    return rules, None


def _remove_stale(path: Path, *, option: str) -> None:
    """Removes a socket that nobody listens on; anything else at `path` is somebody's.

    Raises:
        ConfigError: a daemon listens there, or it is no socket.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise explain_bind_failure(f"unix:{path}", error, option=option) from error
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"{path} exists and is no socket; choose another {option}")
    with socket.socket(socket.AF_UNIX) as probe_socket:
        try:
            probe_socket.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise explain_bind_failure(f"unix:{path}", error, option=option) from error
    raise ConfigError(
        f"cannot listen on unix:{path}: another daemon does; stop it, or choose another {option}"
    )
