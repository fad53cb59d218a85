"""`verdict-py` without a usable broker, and with wrong command lines: one line for each error."""

from __future__ import annotations

import asyncio
import os
import shlex
import socket
import socketserver
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from tests.support.broker import running_broker
from tests.support.certificates import Certificates
from tests.support.command import environment
from tests.support.verdict import verdict
from verdictd_py import daemon as app
from verdictd_py.cli.management.client import is_forbidden
from verdictd_py.simulator import SimulatedPlatform

COMMANDS = (("key", "list"), ("--list-gpg-keys",))


async def complaint(address: str, *words: str, status: int = 3) -> str:
    return (await verdict(address, *words)).complaint(status, "verdict-py")


class _Handlers(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """Serves every method with `answer`; with None, it serves no method."""

    def __init__(self, answer: Callable[..., Any] | None) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if self._answer is None:
            return None
        return grpc.unary_unary_rpc_method_handler(self._answer)


@asynccontextmanager
async def grpc_server(answer: Callable[..., Any] | None) -> AsyncIterator[str]:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((_Handlers(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
class TestWithoutBroker:
    async def test_a_broker_that_is_not_running(self, words: tuple[str, ...]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # no other program gets the port, and none listens
            port = taken.getsockname()[1]
            line = await complaint(f"127.0.0.1:{port}", *words)
        assert line == (
            f"the broker at 127.0.0.1:{port} cannot be reached: nothing listens there; start the "
            "broker, or correct -c"
        )

    async def test_a_broker_without_the_service(self, words: tuple[str, ...]) -> None:
        async with grpc_server(None) as address:
            line = await complaint(address, *words)
        assert line == (
            f"the server at {address} is another gRPC service, not a client API; give -c the "
            "address of the broker's --client-api"
        )

    async def test_a_broker_that_does_not_answer_in_time(self, words: tuple[str, ...]) -> None:
        ended = asyncio.Event()

        async def never(request: bytes, context: Any) -> bytes:
            await ended.wait()
            return b""

        async with grpc_server(never) as address:
            patience = ("--timeout", "0.5")  # window: the server answers nothing at all
            line = await complaint(address, *patience, *words)
            ended.set()
        assert "does not answer in time" in line

    async def test_a_grpc_server_that_answers_garbage(self, words: tuple[str, ...]) -> None:
        async def garbage(request: bytes, context: Any) -> bytes:
            return b"\xff\xff\xff"

        async with grpc_server(garbage) as address:
            line = await complaint(address, *words)
        assert line.endswith("does not answer as a broker does: is -c right?")

    async def test_a_server_of_another_protocol(self, words: tuple[str, ...]) -> None:
        with http_server() as port:
            line = await complaint(f"127.0.0.1:{port}", *words)
        assert line == (
            f"the server at 127.0.0.1:{port} is an HTTP server, not a client API; give -c the "
            "address of the broker's --client-api"
        )


class Refusing(socketserver.BaseRequestHandler):
    """Answers what may be a request with a refusal of HTTP."""

    def handle(self) -> None:
        with suppress(ConnectionError):
            self.request.recv(1)
            self.request.sendall(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")


@contextmanager
def http_server() -> Iterator[int]:
    """Yield the port of an HTTP server, all of whose connections are closed at the end."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield int(server.server_address[1])
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
@pytest.mark.parametrize("directory_mode", [0o750, 0o755])
def test_a_socket_that_this_user_may_not_open_is_reported(directory_mode: int) -> None:
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as served:
        path = Path(directory) / "socket"
        served.bind(str(path))
        path.chmod(0o600)
        Path(directory).chmod(directory_mode)
        assert not is_forbidden(f"unix:{path}")  # root
        os.seteuid(65534)
        try:
            assert is_forbidden(f"unix:{path}")
            assert not is_forbidden("unix:/none")
            assert not is_forbidden("127.0.0.1:1")
        finally:
            os.seteuid(0)


async def test_a_failure_that_upstreams_server_reports_with_status_ok() -> None:
    async def failed(request: bytes, context: Any) -> bytes:
        reason = b"policy is broken"
        return bytes([1 << 3 | 2, len(reason)]) + reason

    async with grpc_server(failed) as address:
        line = await complaint(address, "--set-opa-policy", "x", __file__, status=1)
        assert line == "the broker refused: policy is broken"
        words = ("--test-opa-remote", "p", "r", __file__)
        assert await complaint(address, *words, status=1) == line


async def test_a_broker_cannot_write_control_characters_to_the_terminal() -> None:
    async def hostile(request: bytes, context: Any) -> bytes:
        said = b"\x1b[2Jpub\x07"
        return bytes([1 << 3 | 2, len(said)]) + said

    async with grpc_server(hostile) as address:
        listed = await verdict(address, "--list-gpg-keys")
        assert listed.stdout == b"\\x1b[2Jpub\\x07\n"
        line = await complaint(address, "--set-opa-policy", "x", __file__, status=1)
        assert line == "the broker refused: \\x1b[2Jpub\\x07"


async def test_an_answer_without_a_verdict_is_an_error() -> None:
    async def odd(request: bytes, context: Any) -> bytes:
        return b'\x0a\x0f{"allow":"true"}'.replace(b"\x0f", bytes([16]))

    async with grpc_server(odd) as address:
        line = await complaint(address, "--test-opa-remote", "p", "r", __file__)
    assert "has no verdict" in line


@pytest.mark.parametrize(
    "words",
    [("status",), ("status", "--json"), ("policy", "show", "tdxPolicy.rego"), ("--list-gpg-keys",)],
    ids=" ".join,
)
async def test_an_answer_that_cannot_be_written_is_one_line(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform) as broker:
        program = [sys.executable, "-m", "verdictd_py.cli.verdict", "-c", broker.client_api]
        for redirected, status, said in (
            (">/dev/full", 2, "cannot write the answer: No space left on device; the broker has"),
            (">&-", 0, ""),
        ):
            process = await asyncio.create_subprocess_shell(
                f"{shlex.join([*program, *words])} {redirected}",
                stderr=asyncio.subprocess.PIPE,
                env=environment(),
            )
            _, stderr = await process.communicate()
            assert process.returncode == status
            assert stderr.decode().startswith(f"verdict-py: {said}" if said else "")
            assert stderr.count(b"\n") == bool(said)


async def test_tls_is_used_if_requested(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path)
    ours = certificates.ca.issue_cert(common_name="ops")
    for name, pem in (
        ("tls-ca", certificates.ca.cert_pem),
        ("tls-cert", ours.cert_chain_pems[0]),
        ("tls-key", ours.private_key_pem),
    ):
        (tmp_path / name).write_bytes(pem.bytes())
    words = [f"--{name}={tmp_path / name}" for name in ("tls-ca", "tls-cert", "tls-key")]
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, **certificates.settings) as broker:
        found = (await verdict(broker, *words, "status", "--json")).json
        assert found["caller"] == "certificate ops"
        assert "read-keys" not in found["rights"]
        denied = await verdict(broker, *words, "key", "show", "x")
        assert "has no right to read-keys" in denied.complaint(1, "verdict-py")
        line = await complaint(broker.client_api, "status")
        assert line.endswith("requires TLS: add --tls-ca, --tls-cert and --tls-key")
        stranger = trustme.CA()
        stranger.cert_pem.write_to_path(str(tmp_path / "other"))
        line = await complaint(broker.client_api, *words, f"--tls-ca={tmp_path}/other", "status")
        assert "has a certificate that this CA did not issue (" in line
        assert line.endswith("): correct --tls-ca")
        line = await complaint(broker.client_api, words[0], "status", status=2)
        assert line == "TLS needs all of --tls-ca, --tls-cert and --tls-key"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--list-gpg-keys", "--export-image-policy"), "give one command"),
        (("--list-gpg-keys", "key", "list"), "give one command"),
        (("--set-opa-policy", "only-one"), "expected 2 arguments"),
        (("--nonsense",), "there is no option '--nonsense'"),
        (("nonsense",), "there is no command 'nonsense'"),
        (("key",), "ACTION"),
        (("explain",), "give the id of a guest, or --last"),
        (("explain", "x", "--last"), "give the id of a guest, or --last"),
        (("reference", "pin", "--from", "x", "--yes"), "--yes needs --field"),
        (("--set-image-policy", "/nonexistent/file"), "cannot read /nonexistent/file"),
        (("resource", "set", "a/b/c", "/dev/zero"), "/dev/zero is larger than 4194304 bytes"),
        (("resource", "set", "a/b/c", "/"), "cannot read /: Is a directory"),
        (("key", "create", "\udcff"), "the command line is not UTF-8 text"),
        (("key", "create", ""), "the name is empty: give a name, or none for a UUID"),
        (("--export-opa-policy", "\udcff"), "the command line is not UTF-8 text"),
        (
            ("--tls-ca", __file__, "--tls-cert", __file__, "--tls-key", __file__, "status"),
            "not a PEM certificate; correct --tls-cert, -key",
        ),
        (("--timeout", "0", "status"), "--timeout"),
        (("--timeout", "nan", "status"), "--timeout"),
        (("--timeout", "inf", "status"), "--timeout"),
        (("-c", "nowhere", "status"), "--client-api 'nowhere' is not an address"),
        (("--get_resource", "../../etc/passwd"), ""),
        (("guest", "list", "--limit", "-1"), "--limit"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
async def test_a_wrong_command_line_is_one_line(words: tuple[str, ...], said: str) -> None:
    ended = await verdict("127.0.0.1:9", *words)
    assert ended.status in ({2} if said else {2, 3})
    assert said in ended.complaint(ended.status, ended.stderr.partition(": ")[0])
