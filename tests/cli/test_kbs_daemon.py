"""The HTTP listener of a daemon in a process: signals, and standard error."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography import x509

from tests.support.command import RunningDaemon, port_of, running_daemon
from tests.support.kbs_admins import AdminTokens, bearing
from tests.support.kbs_raw import request

SECONDS = 120
CANARY = "canary-4711-must-not-be-seen"
AUTH = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}
COMMON = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--collateral-url", "")


def http_port(daemon: RunningDaemon) -> int:
    started = daemon.wait_for("daemon.started")
    return port_of(started["kbs_http"])


def write(ca: trustme.CA, directory: Path) -> int:
    """Write a new certificate and return its serial number."""
    made = ca.issue_cert("127.0.0.1")
    chain = b"".join(pem.bytes() for pem in made.cert_chain_pems)
    (directory / "kbs.pem").write_bytes(chain)
    (directory / "kbs.key").write_bytes(made.private_key_pem.bytes())
    return x509.load_pem_x509_certificate(chain).serial_number


def serial(port: int, context: ssl.SSLContext) -> int:
    """Return the serial number of the certificate that a new connection receives."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as tcp,
        context.wrap_socket(tcp, server_hostname="127.0.0.1") as tls,
    ):
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der).serial_number


def test_sighup_renews_the_certificate_and_sigterm_stops_the_daemon(tmp_path: Path) -> None:
    """SIGHUP reads the files again; SIGTERM stops the daemon although a connection is idle."""
    ca = trustme.CA()
    first = write(ca, tmp_path)
    context = ssl.create_default_context()
    ca.configure_trust(context)
    files = ("--kbs-tls-cert", f"{tmp_path}/kbs.pem", "--kbs-tls-key", f"{tmp_path}/kbs.key")
    words = (*COMMON, "--kbs-http", "0.0.0.0:0", *files, "--data-dir", f"{tmp_path}/data")
    limits = ("--drain-timeout", "3600", "--request-timeout", "3600")
    with running_daemon(*words, *limits) as daemon:
        port = http_port(daemon)
        assert serial(port, context) == first
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context) as kept:
            assert kept.get("/healthz").status_code == 200
            second = write(ca, tmp_path)
            daemon.send(signal.SIGHUP)
            assert "certificate of --kbs-http" in str(daemon.wait_for("daemon.reloaded"))
            assert serial(port, context) == second
            (tmp_path / "kbs.key").write_text("garbage")
            daemon.send(signal.SIGHUP)
            warned = daemon.wait_for("warning.reload")
            assert "correct --kbs-tls-cert and --kbs-tls-key" in str(warned)
            assert serial(port, context) == second
            assert kept.get("/healthz").status_code == 200
            assert daemon.end(signal.SIGTERM) == (0, "")  # a stop that waits for it never ends
    assert "daemon.stopped" in {line["event"] for line in daemon.seen}


def test_a_request_in_flight_at_sigterm_is_answered(tmp_path: Path) -> None:
    words = (*COMMON, "--kbs-http", "127.0.0.1:0", "--data-dir", f"{tmp_path}/data")
    body = json.dumps(AUTH).encode()
    with (
        running_daemon(*words) as daemon,
        socket.create_connection(("127.0.0.1", http_port(daemon)), timeout=SECONDS) as tcp,
    ):
        head = {"Content-Length": str(len(body)), "Expect": "100-continue"}
        tcp.sendall(request("POST", "/kbs/v0/auth", headers=head) + body[:5])
        assert tcp.recv(1000).startswith(b"HTTP/1.1 100 ")
        daemon.send(signal.SIGTERM)
        daemon.wait_for("daemon.stopping")
        tcp.sendall(body[5:])
        answer = b"".join(iter(lambda: tcp.recv(65_536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert daemon.end(signal.SIGCONT)[0] == 0


@pytest.fixture
def tokens(tmp_path: Path) -> AdminTokens:
    return AdminTokens(tmp_path / "admins")


def rubbish(tokens: AdminTokens) -> Iterator[tuple[bytes, list[str]]]:
    """Yield invalid requests, with the texts of each that must not be logged."""
    boss = tokens.token("boss")
    secret = os.urandom(32)
    path = f"/kbs/v0/resource/default/x/{CANARY}"
    for method in ("POST", "GET", "DELETE"):
        yield request(method, path, secret, bearing(boss)), [boss, secret.hex(), repr(secret)]
    yield request("POST", "/kbs/v0/auth", CANARY.encode() * 10), [CANARY]
    yield request("POST", "/kbs/v0/auth", json.dumps({"version": CANARY}).encode()), []
    yield request("POST", f"/{CANARY}"), [CANARY]
    yield request(CANARY, "/"), [CANARY]
    yield f"{CANARY}\r\n\r\n".encode(), [CANARY]
    yield request("GET", path, headers={"Cookie": f"kbs-session-id={CANARY}"}), [CANARY]
    yield request("GET", path, headers=bearing(CANARY)), [CANARY]
    yield request("GET", "/healthz", headers={"X": CANARY + "\x00"}), [CANARY]
    yield request("GET", "/healthz", headers={"Expect": CANARY}), [CANARY]
    chunks = "POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    yield f"{chunks}{CANARY}\r\n".encode(), [CANARY]
    yield f"{chunks}5\r\nhello\r\n{CANARY}\r\n".encode(), [CANARY]
    yield f"POST /kbs/v0/auth HTTP/1.1\r\nContent-Length: 99\r\nHost: {CANARY}\r\n\r\n".encode(), []
    yield b"\x16\x03\x01\x02\x00" + CANARY.encode(), [CANARY]
    yield bytes(range(256)), []


def exchanged(port: int, data: bytes, context: ssl.SSLContext | None) -> bytes:
    """Send data and return the answer, which is empty if the connection is closed."""
    with ExitStack() as stack:
        link = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
        if context is not None:
            link = stack.enter_context(context.wrap_socket(link))
        link.sendall(data)
        try:
            return link.recv(65_536)
        except ConnectionError:
            return b""


@pytest.mark.parametrize("tls", [False, True])
def test_standard_error_has_only_log_lines_and_no_data_of_clients(
    tmp_path: Path, tokens: AdminTokens, tls: bool
) -> None:
    """The loggers of the libraries write none of it either."""
    where = "0.0.0.0:0" if tls else "127.0.0.1:0"
    words = (*COMMON, "--kbs-http", where, "--kbs-admins", str(tokens.file))
    hidden: list[str] = []
    with running_daemon(
        *(*words, "--data-dir", f"{tmp_path}/data"),
        *("--request-timeout", "1"),  # window: ends what is no whole request
        *("--handshake-timeout", "1"),  # window: ends what is no whole handshake
    ) as daemon:
        port = http_port(daemon)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        for data, secrets in rubbish(tokens):
            hidden += secrets
            for encrypted in {False, tls}:
                answer = exchanged(port, data, context if encrypted else None)
                assert b"Traceback" not in answer
                assert b"aiohttp" not in answer.lower()
        status, stdout = daemon.end(signal.SIGTERM)
    assert (status, stdout) == (0, "")
    # Each line of standard error was a line of the log: JSON, or `seen` could not have it.
    events = {line["event"] for line in daemon.seen}
    assert {"request.failed", "request.answered", "daemon.stopped"} <= events
    assert "warning.bug" not in events
    shown = json.dumps(daemon.seen)
    for secret in hidden:
        if secret == CANARY:
            continue
        assert secret not in shown
    lines = [line for line in daemon.seen if CANARY in json.dumps(line)]
    # What an administrator stores, by name; and a version that is not served, quoted and cut.
    told = {"resource.set", "resource.deleted", "request.failed"}
    assert {line["event"] for line in lines} <= told
    for line in lines:
        if line["event"] == "request.failed":
            assert "Version Mismatch" in line["reason"]


def test_without_file_descriptors_the_daemon_waits_for_free_ones(tmp_path: Path) -> None:
    words = (*COMMON, "--kbs-http", "127.0.0.1:0", "--data-dir", f"{tmp_path}/data")
    with running_daemon(*words) as daemon, ExitStack() as stack:
        port = http_port(daemon)
        pid = daemon.process.pid
        used = max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
        kept = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 5, kept[1]))
        for _ in range(20):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=SECONDS))
        refused = daemon.wait_for("connection.refused")
        assert refused["reason"] == "cannot accept: Too many open files"
        stack.close()
        assert httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=SECONDS).status_code == 200
        assert daemon.end(signal.SIGTERM) == (0, "")
