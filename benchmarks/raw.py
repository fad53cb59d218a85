"""Raw limits: servers that do with the same libraries only what no broker can avoid.

Usage: python -m benchmarks.raw DIRECTORY

One process serves all of them, because only one is used at a time. It prints one line of JSON with
its ports, verifies quotes on command, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import dcap_qvl
import grpc
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL

from benchmarks.datasets import PLATFORM
from verdictd_py.protocols.ratstls.identity import ServerIdentity
from verdictd_py.simulator import SimulatedPlatform

BACKLOG: Final = 1024
EMPTY_METHOD: Final = "/benchmark.Empty/Call"
_QUOTES: Final = 64
_RECORD_BYTES: Final = 600
"""Size of a record of the audit trail about a release."""

_COLLATERAL: Final = (
    *("pck_crl_issuer_chain", "root_ca_crl", "pck_crl"),
    *("tcb_info_issuer_chain", "tcb_info", "tcb_info_signature"),
    *("qe_identity_issuer_chain", "qe_identity", "qe_identity_signature"),
)


def tls_context() -> SSL.Context:
    """Return the TLS settings of the attested listener, with a callback that looks at nothing."""
    identity = ServerIdentity.create(quote_for=None)
    private: Any = load_der_private_key(identity.private_key, password=None)
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify_depth(0)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.use_privatekey(private)
    context.use_certificate(x509.load_der_x509_certificate(identity.certificate))
    required = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    context.set_verify(required, lambda *_: True)
    return context


def serve_tls(listening: socket.socket) -> None:
    """Complete one handshake after the other, with blocking sockets and without an event loop."""
    context = tls_context()
    while True:
        accepted, _ = listening.accept()
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = SSL.Connection(context, accepted)
        connection.set_accept_state()
        connection.do_handshake()
        connection.shutdown()
        accepted.close()


async def start_http() -> int:
    """Answer every HTTP request with an empty body (aiohttp); return the port."""

    async def empty(request: web.Request) -> web.Response:
        del request
        return web.Response()

    application = web.Application()
    application.router.add_route("*", "/", empty)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG).start()
    return int(runner.addresses[0][1])


async def start_grpc() -> tuple[grpc.aio.Server, int]:
    """Answer every gRPC call with an empty message (grpc.aio); return the server and its port."""

    async def empty(request: bytes, context: object) -> bytes:
        del context
        return request

    server = grpc.aio.server()
    service, method = EMPTY_METHOD[1:].split("/")
    handler = grpc.unary_unary_rpc_method_handler(empty)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return server, port


def answer_commands(directory: Path) -> None:
    """Do what each command requests, some number of times; end with the input.

    `verify` verifies a quote with dcap-qvl, `sync` appends a record to a file and syncs it.
    """
    platform = SimulatedPlatform.load(directory / PLATFORM)
    now = datetime.now(UTC)
    simulated = platform.collateral(now)
    collateral = dcap_qvl.QuoteCollateralV3(
        **{name: getattr(simulated, name) for name in _COLLATERAL}
    )
    quotes = [platform.quote(os.urandom(64)) for _ in range(_QUOTES)]
    file = os.open(directory / "synced", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def verify(number: int) -> None:
        quote, seconds = quotes[number % _QUOTES], int(now.timestamp())
        dcap_qvl.verify_with_root_ca(quote, collateral, platform.root_ca_der, seconds)

    def sync(number: int) -> None:
        del number
        os.write(file, bytes(_RECORD_BYTES))
        os.fsync(file)

    calls = {"verify": verify, "sync": sync}
    for line in sys.stdin:
        command = json.loads(line)
        call, count = calls[command["call"]], command["count"]
        begun = time.perf_counter()
        for number in range(count):
            call(number)
        _print({"count": count, "seconds": time.perf_counter() - begun, "failures": []})
    os._exit(0)


async def main(directory: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    threading.Thread(target=serve_tls, args=(listening,), daemon=True).start()
    http = await start_http()
    server, port = await start_grpc()
    threading.Thread(target=answer_commands, args=(directory,), daemon=True).start()
    _print({"tls": listening.getsockname()[1], "http": http, "grpc": port})
    await server.wait_for_termination()


def _print(members: dict[str, Any]) -> None:
    print(json.dumps(members), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
