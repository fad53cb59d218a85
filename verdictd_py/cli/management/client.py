"""A client of the management API, with failures that a person can act on."""

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
"""The largest reference data, 4 MiB, twice in the answer of a test, and room."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
"""The largest file that a broker stores."""

_NO_ANSWER: Final = {
    grpc.StatusCode.UNAVAILABLE: (
        "cannot be reached: is it running, is -c right, and does it want TLS (--tls-ca)?"
    ),
    grpc.StatusCode.DEADLINE_EXCEEDED: "does not answer in time: look at it, or raise --timeout",
    grpc.StatusCode.UNIMPLEMENTED: "does not know this action: it is older than this tool",
    grpc.StatusCode.UNKNOWN: "does not answer as a broker does: is -c right?",
    grpc.StatusCode.CANCELLED: "ended the call: is it stopping? try again",
}

_NO_TLS: Final = (
    "cannot be reached: is it running, is -c right, and does each side accept the other's "
    "certificate (CA, names, dates)?"
)

Answer = TypeVar("Answer")


class BrokerFailed(VerdictdError):
    """No answer, or a refusal. `answered` tells which."""

    code = "broker-failed"

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach a broker.

    Attributes:
        address: `host:port`, `[v6]:port` or `unix:/path`.
        timeout_seconds: for one call.
        tls_ca, tls_cert, tls_key: PEM files, all or none of them.
    """

    address: str
    timeout_seconds: float
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None

    def channel(self) -> grpc.aio.Channel:
        """Return a channel to the broker. Nothing is sent yet.

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
    """The services of a broker, and the one way to call them: `ask`."""

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
        """A client; the first call finds out whether anybody is there.

        Raises:
            ConfigError: see `Connection.channel`.
        """
        async with connection.channel() as channel:
            yield cls(channel, connection)

    async def ask(self, method: Callable[..., Awaitable[Answer]], request: object) -> Answer:
        """The answer to one call.

        Raises:
            BrokerFailed: there is none, or it is a refusal.
        """
        try:
            answer = await method(request, timeout=self._connection.timeout_seconds)
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        if answer is None:  # grpc's word for bytes that are no message of this kind
            raise BrokerFailed(self._described(_NO_ANSWER[grpc.StatusCode.UNKNOWN]), answered=False)
        # Upstream's server answers failures with OK, and the reason where "OK" should be.
        status = getattr(answer, "status", b"OK")
        if isinstance(status, bytes) and status != b"OK" and not status.startswith(b"{"):
            told = " ".join(status.decode(errors="replace").split())
            raise BrokerFailed(f"the broker refused: {told or 'no reason given'}", answered=True)
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
        return BrokerFailed(self._described(problem), answered=False)

    def _described(self, problem: str) -> str:
        return f"the broker at {self._connection.address} {problem}"


def read(file: Path) -> bytes:
    """A file that the command line names.

    Raises:
        ConfigError: it cannot be read, or is larger than any request.
    """
    content = read_file(file, MAX_FILE_BYTES)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_FILE_BYTES} bytes; check its name")
    return content


def write(file: Path, content: bytes) -> None:
    """A file that the command line names; what holds a secret is its owner's alone.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; check --path") from error
