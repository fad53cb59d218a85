"""Client of the management API, whose errors name a remedy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import grpc

from verdictd_py._generated import clientapi_pb2_grpc as upstream
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1
from verdictd_py.cli import channels
from verdictd_py.cli.output import progress
from verdictd_py.cli.parsing import read_whole
from verdictd_py.cli.servers import AcceptedUsers
from verdictd_py.domain.addresses import Address
from verdictd_py.errors import ConfigError, VerdictdError

MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
"""A test of a policy returns the reference data, at most 4 MiB, twice."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""The largest file that a broker stores."""

_NO_ANSWER: Final = {
    grpc.StatusCode.UNAVAILABLE: (
        "cannot be reached: is it running, is -c right, and does it require TLS (--tls-ca)?"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer in time: check its log, or raise --timeout",
    grpc.StatusCode.UNIMPLEMENTED: "does not know this action: it is older than this tool",
    grpc.StatusCode.UNKNOWN: "does not answer as a broker does: is -c right?",
    grpc.StatusCode.CANCELLED: "ended the call: is it stopping? try again",
}

_NO_TLS: Final = (
    "cannot be reached: is it running, is -c right, and does each side accept the other's "
    "certificate (CA, names, dates)?"
)

_FORBIDDEN: Final = (
    "cannot be reached: this user may not open the socket; call as root or as the broker's user"
)

Answer = TypeVar("Answer")


OTHER_USER: Final = "other-user"
"""Reason of `BrokerFailed`: nothing was sent, because the server belongs to another user."""


class BrokerFailed(VerdictdError):
    """The broker did not answer, or it refused the request.

    Attributes:
        answered: whether the broker answered.
        reason: `no-broker`, `other-user` (its server belongs to one), or the gRPC status of the
            answer (`not-found`); for programs.
    """

    code = "broker-failed"

    def __init__(self, message: str, *, answered: bool, reason: str = "") -> None:
        super().__init__(message)
        self.answered = answered
        self.reason = reason or ("refused" if answered else "no-broker")


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a broker.

    Attributes:
        addresses: to try in order; several without TLS only.
        timeout_seconds: limit of each call.
        tls_ca, tls_cert, tls_key: PEM files, all or none of them.
        users: whose server on loopback is accepted.
    """

    addresses: tuple[Address, ...]
    timeout_seconds: float
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    users: AcceptedUsers = field(default_factory=AcceptedUsers)

    @property
    def address(self) -> str:
        """The addresses, for the operator."""
        return " or ".join(map(str, self.addresses))

    @property
    def proves_server(self) -> bool:
        """Whether the way to the server proves whose it is: TLS, or the path of a unix socket."""
        return self.tls_ca is not None or bool(self.addresses[0].unix)

    def channel(self) -> grpc.aio.Channel:
        """Return a channel; it sends nothing before the first call.

        Raises:
            ConfigError: one of the files cannot be read, or is missing.
        """
        if not (self.tls_ca or self.tls_cert or self.tls_key):
            return channels.channel(*map(str, self.addresses), max_answer_bytes=MAX_ANSWER_BYTES)
        if not (self.tls_ca and self.tls_cert and self.tls_key):
            raise ConfigError("TLS needs all of --tls-ca, --tls-cert and --tls-key")
        from verdictd_py.listeners.tls import TlsFiles  # noqa: PLC0415  # late: it takes 50 ms

        tls = TlsFiles.read("--tls", self.tls_cert, self.tls_key, self.tls_ca)
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
        return channels.channel(
            str(self.addresses[0]), credentials=credentials, max_answer_bytes=MAX_ANSWER_BYTES
        )


class BrokerClient:
    """The services of a broker; `call` calls a method of one of them."""

    def __init__(self, channel: grpc.aio.Channel, connection: Connection) -> None:
        self._connection = connection
        self._channel = channel
        self._waiting = f"waiting for the broker at {connection.address}"
        self.upstream_keys = upstream.KeyManagerServiceStub(channel)
        self.opa = upstream.OpaServiceStub(channel)
        self.gpg = upstream.GpgServiceStub(channel)
        self.upstream_images = upstream.ImageServiceStub(channel)
        self.upstream_resources = upstream.ResourceServiceStub(channel)
        self.keys = v1.KeyServiceStub(channel)
        self.resources = v1.ResourceServiceStub(channel)
        self.images = v1.ImageServiceStub(channel)
        self.documents = v1.DocumentServiceStub(channel)
        self.references = v1.ReferenceServiceStub(channel)
        self.appraisals = v1.AppraisalServiceStub(channel)
        self.policy_tests = v1.PolicyTestServiceStub(channel)
        self.about = v1.StatusServiceStub(channel)
        self.console = v1.ConsoleServiceStub(channel)

    @classmethod
    @asynccontextmanager
    async def connect(cls, connection: Connection) -> AsyncIterator[BrokerClient]:
        """Open a client; it connects at the first call.

        Raises:
            ConfigError: see `Connection.channel`.
        """
        async with connection.channel() as channel:
            yield cls(channel, connection)

    async def call(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        """Call a method and return its answer.

        Raises:
            BrokerFailed: the broker did not answer, or it refused the request; or the server
                belongs to another user.
        """
        if not self._connection.proves_server:
            await self._require_accepted_server()
        try:
            with progress.shown(self._waiting):
                answer = await method(request, timeout=self._connection.timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        if answer is None:  # gRPC returns None for bytes that are not a message of this type
            raise BrokerFailed(self._described(_NO_ANSWER[grpc.StatusCode.UNKNOWN]), answered=False)
        # Upstream's server reports a failure with gRPC status OK, and the reason in `status`.
        status = getattr(answer, "status", b"OK")
        if isinstance(status, bytes) and status != b"OK" and not status.startswith(b"{"):
            reason = " ".join(status.decode(errors="replace").split())
            raise BrokerFailed(f"the broker refused: {reason or 'no reason given'}", answered=True)
        return answer

    async def _require_accepted_server(self) -> None:
        """Connect, and refuse a server on loopback that belongs to another user.

        The server's end of the connection itself is examined: another process could take the
        place of one that only listened. The connection is ready once the server has sent its
        settings; until then no request and no secret is sent.

        Raises:
            BrokerFailed: see `call`.
        """
        try:
            with progress.shown(self._waiting):
                async with asyncio.timeout(self._connection.timeout_seconds):
                    await self._connected()
        except TimeoutError:
            failed = grpc.StatusCode.DEADLINE_EXCEEDED
            raise BrokerFailed(self._described(_NO_ANSWER[failed]), answered=False) from None
        problem = self._connection.users.problem(self._connection.addresses[0].port)
        if problem:
            raise BrokerFailed(
                f"the server at {self._connection.address} {problem}",
                answered=False,
                reason=OTHER_USER,
            )

    async def _connected(self) -> None:
        state = self._channel.get_state(try_to_connect=True)
        while state is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                failed = grpc.StatusCode.UNAVAILABLE
                raise BrokerFailed(self._described(_NO_ANSWER[failed]), answered=False)
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    def _failure(self, error: grpc.aio.AioRpcError) -> BrokerFailed:
        details = " ".join((error.details() or "").split())
        problem = _NO_ANSWER.get(error.code())
        if problem is None:
            return BrokerFailed(
                f"the broker refused: {details or error.code().name}",
                answered=True,
                reason=error.code().name.lower().replace("_", "-"),
            )
        if error.code() is grpc.StatusCode.UNAVAILABLE and self._connection.tls_ca is not None:
            problem = _NO_TLS
        if error.code() is grpc.StatusCode.UNAVAILABLE and is_forbidden(self._connection.address):
            problem = _FORBIDDEN
        return BrokerFailed(self._described(problem), answered=False)

    def _described(self, problem: str) -> str:
        return f"the broker at {self._connection.address} {problem}"


def is_forbidden(address: str) -> bool:
    """Return whether the permissions of a unix socket, or of its directory, keep this user out."""
    if not address.startswith("unix:"):
        return False
    path = address.removeprefix("unix:")
    try:
        Path(path).stat()
    except PermissionError:
        return True
    except OSError:
        return False
    return not os.access(path, os.W_OK, effective_ids=True)


def read(file: Path) -> bytes:
    """Read a file that the command line names.

    Raises:
        ConfigError: the file cannot be read, or is larger than any request.
    """
    return read_whole(file, MAX_FILE_BYTES)


def write(file: Path, content: bytes, *, option: str = "--path") -> None:
    """Write a file that only its owner can read, because it may contain a secret.

    Args:
        option: option that names the file.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; check {option}") from error
