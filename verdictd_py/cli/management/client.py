"""Client of the management API, whose errors name a remedy."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import grpc

from verdictd_py._generated import clientapi_pb2_grpc as upstream
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1
from verdictd_py.cli import channels
from verdictd_py.cli.parsing import read_file
from verdictd_py.errors import ConfigError, VerdictdError
from verdictd_py.listeners.tls import TlsFiles

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


class BrokerFailed(VerdictdError):
    """The broker did not answer, or it refused the request.

    Attributes:
        answered: whether the broker answered.
    """

    code = "broker-failed"

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a broker.

    Attributes:
        address: `host:port`, `[v6]:port` or `unix:/path`.
        timeout_seconds: limit of each call.
        tls_ca, tls_cert, tls_key: PEM files, all or none of them.
    """

    address: str
    timeout_seconds: float
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def channel(self) -> grpc.aio.Channel:
        """Return a channel; it sends nothing before the first call.

        Raises:
            ConfigError: one of the files cannot be read, or is missing.
        """
        if not (self.tls_ca or self.tls_cert or self.tls_key):
            return channels.channel(self.address, max_answer_bytes=MAX_ANSWER_BYTES)
        if not (self.tls_ca and self.tls_cert and self.tls_key):
            raise ConfigError("TLS needs all of --tls-ca, --tls-cert and --tls-key")
        tls = TlsFiles.read("--tls", self.tls_cert, self.tls_key, self.tls_ca)
        credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.certificate)
        return channels.channel(
            self.address, credentials=credentials, max_answer_bytes=MAX_ANSWER_BYTES
        )


class BrokerClient:
    """The services of a broker; `call` calls a method of one of them."""

    def __init__(self, channel: grpc.aio.Channel, connection: Connection) -> None:
        self._connection = connection
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
            BrokerFailed: the broker did not answer, or it refused the request.
        """
        try:
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

    def _failure(self, error: grpc.aio.AioRpcError) -> BrokerFailed:
        details = " ".join((error.details() or "").split())
        problem = _NO_ANSWER.get(error.code())
        if problem is None:
            return BrokerFailed(
                f"the broker refused: {details or error.code().name}", answered=True
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
    content = read_file(file, MAX_FILE_BYTES)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_FILE_BYTES} bytes; check its name")
    return content


def write(file: Path, content: bytes) -> None:
    """Write a file that only its owner can read, because it may contain a secret.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; check --path") from error
