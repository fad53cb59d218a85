"""A server of another kind at an address is named, with the option to change, in one sentence."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import pytest
import trustme

from tests.support.broker import RunningBroker
from tests.support.command import Ended, run_here
from tests.support.verdict import verdict
from verdictd_py.cli import probe
from verdictd_py.cli.probe import Kind, kind_of
from verdictd_py.cli.verdict import main as verdict_main
from verdictd_py.cli.wrongserver import (
    of_attestation_listener,
    of_client_api,
    of_kbs,
    of_key_provider,
)
from verdictd_py.domain.addresses import Address
from verdictd_py.formats.greetings import Greeting, greeting_of

Serve = Callable[[socket.socket], None]

HTTP_ANSWER = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


def http(connection: socket.socket) -> None:
    connection.recv(4096)
    connection.sendall(HTTP_ANSWER)


def banner(text: bytes) -> Serve:
    def serve(connection: socket.socket) -> None:
        connection.sendall(text)
        connection.recv(4096)

    return serve


def silent(connection: socket.socket) -> None:
    with suppress(OSError):
        while connection.recv(4096):
            pass


@contextmanager
def serving(serve: Serve, tls: ssl.SSLContext | None = None) -> Iterator[Address]:
    """Serve connections one by one, in a thread that ends with the listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    connection.settimeout(60)
                    if tls is None:
                        serve(connection)
                        continue
                    with tls.wrap_socket(connection, server_side=True) as secured:
                        serve(secured)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield Address("127.0.0.1", listening.getsockname()[1])
        finally:
            with suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
    thread.join()


@contextmanager
def grpc_server(credentials: grpc.ServerCredentials | None = None) -> Iterator[Address]:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    server = grpc.server(ThreadPoolExecutor(1))
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield Address("127.0.0.1", port)
    finally:
        server.stop(0).wait()


AUTHORITY = trustme.CA()


def tls_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


def credentials() -> grpc.ServerCredentials:
    own = AUTHORITY.issue_cert("127.0.0.1")
    chain = own.cert_chain_pems[0].bytes()
    return grpc.ssl_server_credentials([(own.private_key_pem.bytes(), chain)])


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[Kind, Address]]:
    """One server of each kind that needs no broker."""
    with ExitStack() as stack, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        enter = stack.enter_context
        yield {
            Kind.REFUSED: Address("127.0.0.1", unused.getsockname()[1]),
            Kind.NO_HOST: Address("no.such.host.invalid", 1),
            Kind.NO_SOCKET: Address(unix="/nonexistent/socket"),
            Kind.SILENT: enter(serving(silent)),
            Kind.HTTP: enter(serving(http)),
            Kind.HTTPS: enter(serving(http, tls_context())),
            Kind.TLS: enter(serving(silent, tls_context())),
            Kind.GRPC: enter(grpc_server()),
            Kind.GRPC_TLS: enter(grpc_server(credentials())),
            Kind.SSH: enter(serving(banner(b"SSH-2.0-OpenSSH_9.2p1\r\n"))),
            Kind.MAIL: enter(serving(banner(b"220 mail.example ESMTP\r\n"))),
            Kind.REDIS: enter(serving(banner(b"-ERR unknown command\r\n"))),
            Kind.OTHER: enter(serving(banner(b"hello\r\n"))),
        }


KINDS = [kind for kind in Kind if kind not in (Kind.RATS_TLS, Kind.NO_ANSWER)]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Give a busy machine time, except for servers that send nothing: they use all of it."""
    limits = {"[SILENT-]": 0.2, "[OTHER-]": 0.2, "[TLS-]": 3.0}
    name = request.node.name
    seconds = next((limit for part, limit in limits.items() if name.endswith(part)), 60.0)
    monkeypatch.setattr(probe, "SECONDS", seconds)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-")
class TestEachKind:
    def test_it_is_recognized(self, servers: dict[Kind, Address], kind: Kind) -> None:
        assert kind_of(servers[kind]) is kind

    def test_it_is_named_where_another_one_is_expected(
        self, servers: dict[Kind, Address], kind: Kind
    ) -> None:
        address = servers[kind]
        sentences = {
            "-c": of_client_api((address,), ca=None),
            "--connect": of_attestation_listener(address),
            '"grpc"': of_key_provider(address),
        }
        expected = {"-c": Kind.GRPC, '"grpc"': Kind.GRPC}
        for flag, sentence in sentences.items():
            if kind is expected.get(flag):
                assert sentence == ""
                continue
            if kind is not Kind.GRPC_TLS or flag == "--connect":
                assert flag in sentence
                assert kind in probe.ABSENT or f" is {kind}" in sentence
            assert str(address) in sentence
            assert "\n" not in sentence

    def test_it_is_named_where_a_kbs_is_expected(
        self, servers: dict[Kind, Address], kind: Kind
    ) -> None:
        plain, secured = (of_kbs(servers[kind], tls=tls) for tls in (False, True))
        if kind is Kind.HTTP:
            assert plain == ""
            assert secured.endswith("does not use TLS: write http:// in --connect")
        elif kind in (Kind.HTTPS, Kind.TLS):
            assert plain.endswith("uses TLS: write https:// in --connect")
            assert secured == ""
        else:
            assert plain == secured
            assert "--connect" in plain


@pytest.mark.parametrize(
    ("scheme", "kind", "said"),
    [
        ("http", Kind.REFUSED, ": nothing listens there; correct --collateral-url"),
        ("http", Kind.SSH, " is an SSH server, not a PCS or PCCS; correct --collateral-url"),
        ("http", Kind.GRPC, " is a gRPC server, not a PCS or PCCS; correct --collateral-url"),
        ("http", Kind.HTTPS, " uses TLS: write https:// in --collateral-url"),
        ("https", Kind.HTTP, " does not use TLS: write http:// in --collateral-url"),
        ("http", Kind.HTTP, "PCK CRL from http://"),
    ],
)
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_it_is_named_where_collateral_is_fetched(
    servers: dict[Kind, Address],
    scheme: str,
    kind: Kind,
    said: str,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    url = f"{scheme}://{servers[kind]}"
    words = ("fetch", "--fmspc", "00a067110000", "--collateral-url", url)
    ended = run_here(("collateral", *words, "--output", str(tmp_path / "out")), capfdbinary)
    line = ended.complaint(2, "verdictd-py collateral")
    assert said in line
    assert "--collateral-url" in line
    # The first failure cancels the other requests. httpcore leaves a connection that is cancelled
    # in its TLS handshake to the collector, which would report it in another test.
    gc.collect()


def test_a_server_that_uses_no_tls_is_named(servers: dict[Kind, Address], tmp_path: Path) -> None:
    sentence = of_client_api((servers[Kind.GRPC],), ca=tmp_path)
    assert sentence.endswith("does not use TLS: remove --tls-ca, --tls-cert and --tls-key")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("right", ""),
        ("other-ca", "this CA did not issue"),
        ("name", "is not for localhost: write a name of the certificate in -c"),
    ],
)
def test_the_problem_of_a_certificate_is_named(
    servers: dict[Kind, Address], tmp_path: Path, name: str, problem: str
) -> None:
    authority = trustme.CA() if name == "other-ca" else AUTHORITY
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    address = servers[Kind.GRPC_TLS]
    if name == "name":
        address = Address("localhost", address.port)
    found = probe.certificate_problem(address, tmp_path / "ca.pem")
    assert problem in found if problem else found == ""


async def test_the_attestation_listener_is_recognized_by_its_certificate(
    broker: RunningBroker,
) -> None:
    address = broker.daemon.listener("listen").address

    def sentences() -> tuple[Kind, str, str, str]:
        return (
            kind_of(address),
            of_attestation_listener(address),
            of_client_api((address,), ca=None),
            of_kbs(address, tls=True),
        )

    kind, attested, api, kbs = await asyncio.to_thread(sentences)
    assert (kind, attested) == (Kind.RATS_TLS, "")
    assert "is a broker's attestation listener (--listen), not a client API; give -c" in api
    assert "remove --protocol rcar" in kbs


async def test_another_service_of_grpc_is_named(servers: dict[Kind, Address]) -> None:
    ended = await verdict(str(servers[Kind.GRPC]), "status")
    line = ended.complaint(3, "verdict-py")
    assert " is another gRPC service, not a client API; give -c " in line


@pytest.mark.broker(keyprovider_api="127.0.0.1:0")
async def test_the_listener_for_key_providers_is_named(broker: RunningBroker) -> None:
    ended = await verdict(broker.daemon.listener("keyprovider_api").endpoint, "status")
    line = ended.complaint(3, "verdict-py")
    assert " is a key provider (--keyprovider-api), which only wraps and unwraps, " in line


GUESTS = [
    ((), Kind.HTTP, "is an HTTP server, not an attestation listener; add --protocol rcar"),
    ((), Kind.GRPC, "is a gRPC server, not an attestation listener; give --connect"),
    ((), Kind.SSH, "is an SSH server, not an attestation listener; give --connect"),
    ((), Kind.REFUSED, "nothing listens there; start the broker, or correct --connect"),
    ((), Kind.NO_HOST, "there is no host 'no.such.host.invalid'; start the broker, or correct"),
    (("--protocol", "rcar"), Kind.HTTP, "is an HTTP server, but not a KBS"),
    (("--protocol", "rcar"), Kind.GRPC, "is a gRPC server, not a KBS; give --connect"),
    (("--protocol", "rcar"), Kind.HTTPS, "uses TLS: write https:// in --connect"),
    (("--protocol", "rcar"), Kind.REFUSED, "nothing listens there; start the broker with"),
]


@pytest.mark.parametrize(("options", "kind", "said"), GUESTS)
def test_a_guest_names_it_and_exits_with_status_3(
    servers: dict[Kind, Address],
    options: tuple[str, ...],
    kind: Kind,
    said: str,
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
) -> None:
    words = ("guest", *options, "--connect", str(servers[kind]), "--platform", str(tmp_path))
    ended = run_here((*words, "policy"), capfdbinary)
    assert said in ended.complaint(3, "verdictd-py guest")


def test_verdict_py_exits_with_status_3(
    servers: dict[Kind, Address], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    status = verdict_main(["-c", str(servers[Kind.SSH]), "status"])
    out, err = capfdbinary.readouterr()
    line = Ended(status, out, err.decode()).complaint(3, "verdict-py")
    assert "is an SSH server, not a client API; give -c" in line


class TestKeyProviderFile:
    def _check(self, capfdbinary: pytest.CaptureFixture[bytes], file: Path, text: str) -> Ended:
        file.write_text(text)
        return run_here(("keyprovider", "--check", str(file)), capfdbinary)

    def test_each_provider_is_checked(
        self,
        servers: dict[Kind, Address],
        capfdbinary: pytest.CaptureFixture[bytes],
        tmp_path: Path,
    ) -> None:
        providers = {
            "good": {"grpc": str(servers[Kind.GRPC])},
            "program": {"cmd": {"path": "sh"}},
            "web": {"grpc": str(servers[Kind.HTTP])},
            "down": {"grpc": str(servers[Kind.REFUSED])},
            "missing": {"cmd": {"path": "no-such-program"}},
        }
        text = json.dumps({"key-providers": providers})
        ended = self._check(capfdbinary, tmp_path / "conf", text)
        assert (ended.status, ended.stderr) == (3, "")
        good, program, web, down, missing = ended.stdout.decode().splitlines()
        assert good == f"good: {servers[Kind.GRPC]} can be used"
        assert program == "program: sh can be used"
        assert 'is an HTTP server, not a key provider; correct "grpc" to' in web
        assert "nothing listens there" in down
        assert missing == "missing: there is no program no-such-program; correct its path"

    @pytest.mark.parametrize(
        ("text", "cause"),
        [
            ("{", "is not JSON"),
            ("{}", 'has no "key-providers"'),
            ('{"key-providers":{"a":{}}}', 'a has neither "grpc" nor "cmd"'),
        ],
    )
    def test_a_wrong_file_is_one_line(
        self, text: str, cause: str, capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path
    ) -> None:
        ended = self._check(capfdbinary, tmp_path / "conf", text)
        assert cause in ended.complaint(2, "verdictd-py keyprovider")


@pytest.mark.parametrize(
    ("first", "greeting"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", Greeting.HTTP),
        (b"\x15\x03\x03\x00\x02\x02\x28", Greeting.TLS),
        (b"\x00\x00\x06\x04\x00\x00\x00\x00\x00", Greeting.HTTP2),
        (b"\x00\x00\x05\x04\x00\x00\x00\x00\x00", Greeting.OTHER),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00\x01", Greeting.OTHER),
        (b"SSH-2.0-x", Greeting.SSH),
        (b"", Greeting.OTHER),
    ],
)
def test_first_bytes(first: bytes, greeting: Greeting) -> None:
    assert greeting_of(first) is greeting
