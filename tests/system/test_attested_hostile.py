"""Unattested clients and hostile guests: each is one log line, and no resource leaks.

`test_hostile_input.py` tests bytes that are not TLS, and invalid requests.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from tests.support.broker import (
    HANDSHAKE_SECONDS,
    KEY,
    KID,
    REQUEST_SECONDS,
    RunningBroker,
)
from tests.support.channel import (
    VERSIONS,
    answer,
    ask,
    encoded,
    nothing_stays,
    only,
    refusal,
    rest,
    send_records,
    still_serves,
    store,
)
from tests.support.clock import elapse, elapse_until, until
from tests.support.ratstls import DICE, VENDOR, key_der, self_signed
from verdictd_py.guest.attesters import use_certificate
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls.session import TlsSession, client_context

CONNECTIONS = 4
LARGE = 4 * 1024 * 1024 - 1
"""A resource that is hardly served still."""
TOLERANCE = 30.0
"""Seconds that a test may really take, in addition to those that it lets elapse."""
KERNEL = 32 * 1024 * 1024
"""More than the kernel holds between two sockets on any usual host."""
ESCAPES = [
    "../../../etc/shadow",
    "../../../../etc/shadow",
    "../keys/x",
    "a/../b",
    "a/b/..",
    "/etc/shadow",
    "default//1",
    "default/key/.tmp-1",
    "default/key/1\0",
    "default\\key\\1",
    "%2e%2e/%2e%2e/shadow",
    "..",
    ".",
    "",
    "x" * 256,
    "x/" * 1000,
]


pytestmark = pytest.mark.broker(max_connections=CONNECTIONS, check=still_serves)


def address(guest: GuestConnection) -> str:
    host, port = guest._writer.get_extra_info("sockname")[:2]
    return f"{host}:{port}"


def lines(broker: RunningBroker, peer: str) -> list[str]:
    """Return the log lines about one connection, without its requests."""
    return [
        event.spec.name
        for event in broker.events.events
        if getattr(event, "peer", None) == peer
        and event.spec.name.startswith(("connection.", "guest.", "warning."))
    ]


async def ended(reader: asyncio.StreamReader) -> None:
    """Wait until the broker has closed the connection."""
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


def with_extension(broker: RunningBroker, value: bytes, oid: str = DICE) -> SSL.Context:
    """Return a guest with the evidence `value`, which may be invalid."""
    key = ec.generate_private_key(ec.SECP256R1())
    day = timedelta(days=1)
    context = client_context(key_der(key))
    begin, end = broker.now - day, broker.now + day
    use_certificate(context, self_signed([(oid, False, value)], key=key, begin=begin, end=end))
    return context


def evidence(*items: object) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(60000, list(items)))


TAG = b"\xd9\xea\x60"  # 60000
BOMBS = {
    "arrays": TAG + b"\x82" + b"\x81" * 60_000,
    "endless-arrays": TAG + b"\x9f" * 60_000,
    "tags": b"\xc6" * 60_000,
    "maps": TAG + b"\x82\x41x\xa1" + b"\xa1" * 60_000,
    "long-array": TAG + b"\x9b" + b"\xff" * 8,
    "long-bytes": TAG + b"\x82\x5b" + b"\x7f" + b"\xff" * 7,
    "endless-bytes": TAG + b"\x82\x5f" + b"\x40" * 60_000,
    "claims-in-claims": evidence(b"q", cbor2.dumps({"pubkey-hash": b"\x81" * 50_000})),
    "many-claims": evidence(b"q", cbor2.dumps({str(n): b"" for n in range(8_000)})),
    "bignum": TAG + b"\x82\xc2\x59\xea\x60" + b"\xff" * 60_000,
    "nothing": b"",
    "text": TAG + b"\x82\x7a\x00\x00\xea\x60" + b"\xff" * 60_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_cbor_bombs_are_refused(broker: RunningBroker, bomb: str) -> None:
    async with GuestConnection.open(*broker.address, with_extension(broker, BOMBS[bomb])) as guest:
        assert b"refused: evidence-format" in await refusal(guest)
    await nothing_stays(broker)
    assert lines(broker, address(guest)) == ["guest.refused"]


@pytest.mark.parametrize("kept", [0, 1, 47, 48, 600, 632, 635, 636, 700, 1500, -1])
async def test_truncated_quotes_are_refused(broker: RunningBroker, kept: int) -> None:
    quote = broker.attester().quote(bytes(64))[:kept]
    context = with_extension(broker, quote, VENDOR + "8")
    async with GuestConnection.open(*broker.address, context) as guest:
        answer = await refusal(guest)
    codes = ("evidence-format", "quote-invalid") if kept else ("evidence-missing",)
    assert any(f"refused: {code}".encode() in answer for code in codes)
    await nothing_stays(broker)
    assert lines(broker, address(guest)) == ["guest.refused"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("size", "expected"),
    [(66_000, "guest.refused"), (99_000, "guest.refused"), (500_000, "connection.failed")],
)
async def test_an_oversized_certificate_is_refused(
    broker: RunningBroker, size: int, expected: str, version: str
) -> None:
    """The broker's limit is 64 KiB; OpenSSL refuses a certificate beyond 100 KiB."""
    context = only(with_extension(broker, b"\x11" * size), version)
    peer = ""
    with suppress(BrokerRefused):
        async with GuestConnection.open(*broker.address, context) as guest:
            peer = address(guest)
            answer = await refusal(guest)
            assert answer == b"" or b"refused: evidence-format" in answer
    await nothing_stays(broker)
    if peer:
        assert lines(broker, peer) == [expected]
    assert len(broker.events.named(expected)) == 1
    assert not broker.events.named("guest.accepted", "request.received")


@pytest.mark.parametrize(
    "sent",
    [
        b'{"command":"version","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"command":"version","x":' + b'{"a":' * 50_000,
        b'{"command":"version","x":' + b"9" * 500_000 + b"}",
        b'{"command":"version","x":NaN}',
        b'{"command":"version","command":"Get KEK"}',
        b'{"command":"version"\0}',
        b"\xef\xbb\xbf" + b'{"command":"version"}',
        b'{"command":"version"}'.decode().encode("utf-16"),
        b'{"command":null}',
        b'{"command":["version"]}',
    ],
)
async def test_hostile_json_is_answered_with_fail_and_ends_the_connection(
    broker: RunningBroker, sent: bytes
) -> None:
    """defects.md 4: malformed requests panicked handlers."""
    async with broker.guest() as guest:
        await send_records(guest, sent)
        told = json.loads(await rest(guest))
        assert (told["status"], told["data"]) == ("Fail", {})
    await nothing_stays(broker)
    assert lines(broker, address(guest)) == ["guest.accepted"]
    assert len(broker.events.named("request.failed")) == 1
    assert len(broker.events.logged) < 20_000


@pytest.mark.parametrize(
    "request_",
    [
        {"command": "echo", "data": "\ud800"},
        {"command": "\ud800"},
        {"command": "Get \ud800/x/y"},
        {"command": "x" * 900_000},
        {"command": "Get KEK", "kids": ["\ud800"]},
        {"command": "Get KEK", "kids": [KID] * 100_000},
        {"command": "Get KEK", "kids": [[]]},
        {"command": "Decrypt", "blobs": [{}]},
        {"command": "Decrypt", "blobs": [{"kid": KID, "encrypted_data": "\ud800"}]},
        {"command": "Get Resource", "optional": None},
    ],
)
async def test_the_broker_works_after_hostile_requests(
    broker: RunningBroker, request_: dict[str, Any]
) -> None:
    async with broker.guest() as guest:
        await send_records(guest, encoded(request_))
        assert await guest._read()
    await nothing_stays(broker)
    assert not broker.events.named("warning.bug")
    assert len(broker.events.logged) < 20_000


@pytest.mark.parametrize("name", ESCAPES)
async def test_no_name_escapes_the_data_directory(broker: RunningBroker, name: str) -> None:
    """defects.md 1: upstream used an unchecked kid as a path. Here every request with a name."""
    store(broker, "secret", b"x" * 32)
    blob = {"kid": name, "encrypted_data": "", "algorithm": "AES", "key_length": 256, "iv": ""}
    async with broker.guest() as guest:
        for request in (
            {"command": "Get KEK", "kids": [name]},
            {"command": "Decrypt", "blobs": [blob]},
            {"command": "Get Resource Info", "name": name},
        ):
            told = await ask(guest, request)
            assert told["status"] == "Fail"
            assert "etc" not in told["error"].replace(name, "")
        by_path = {"command": "Get Resource", "optional": {"resource_path": name}}
        for sent in (encoded(by_path), encoded({"command": f"Get {name}", "optional": {}})):
            await send_records(guest, sent)
            text = await guest._read()
            # An unknown command is told in JSON, a resource's failure in base64 of it.
            found = json.loads(text if text.startswith(b"{") else base64.b64decode(text))
            assert found["status"] == "Fail"
    assert not broker.events.named("secret.released", "warning.bug")


async def test_no_symbolic_link_escapes_the_data_directory(broker: RunningBroker) -> None:
    """defects.md 1: the name is valid, and the file is a link."""
    outside = broker.data.parent / "outside"
    (outside / "key").mkdir(parents=True)
    (outside / "key" / "1").write_bytes(KEY)
    (broker.data / "keys" / "linked").symlink_to(outside / "key" / "1")
    (broker.data / "keys" / "default").symlink_to(outside)
    (broker.data / "resources" / "default").symlink_to(outside)
    async with broker.guest() as guest:
        for kid in ("linked", "default/key/1"):
            assert (await ask(guest, {"command": "Get KEK", "kids": [kid]}))["status"] == "Fail"
        info = await ask(guest, {"command": "Get Resource Info", "name": "default/key/1"})
        assert info["status"] == "Fail"
    assert not broker.events.named("secret.released", "warning.bug")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_refused_guest_that_does_not_close_is_one_log_line(
    broker: RunningBroker, version: str
) -> None:
    """The guest neither reads nor closes, so that the broker closes the connection."""
    context = only(broker.context(None), version)
    reader, writer = await asyncio.open_connection(*broker.address)
    guest = GuestConnection(reader, writer, TlsSession(context, server=False))
    await guest._handshake()
    await elapse_until(lambda: not broker.attested._tasks)
    assert lines(broker, address(guest)) == ["guest.refused"]
    await ended(reader)
    writer.close()


async def test_bytes_that_are_not_tls_end_an_attested_connection(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert await guest.version() == "v1"
        guest._writer.write(b"\x17\x03\x03\x00\x20" + b"\x11" * 32)
        await ended(guest._reader)
    await nothing_stays(broker)
    assert lines(broker, address(guest)) == ["guest.accepted", "connection.failed"]


@pytest.mark.parametrize("when", ["before", "between", "within"])
async def test_an_aborted_connection_is_one_log_line(broker: RunningBroker, when: str) -> None:
    """The connection ends without close_notify before, after or within a request."""
    async with broker.guest() as guest:
        if when != "before":
            assert await guest.version() == "v1"
        if when == "within":
            await send_records(guest, b'{"command":')
        peer = address(guest)
        guest._writer.transport.abort()
    await nothing_stays(broker)
    first, last = lines(broker, peer)
    assert first == "guest.accepted"
    assert last in {"connection.closed", "connection.failed"}


async def test_a_request_is_answered_although_close_notify_follows_it(
    broker: RunningBroker,
) -> None:
    async with broker.guest() as guest:
        guest._session.write(encoded({"command": "version"}))
        guest._session.close()
        await guest._flush()
        assert await answer(guest) == {"status": "OK", "version": "v1"}


async def trickle(guest: GuestConnection, data: bytes, *, tls: bool) -> float:
    """Send one byte per second until the broker has closed the connection.

    Returns:
        The seconds until then.
    """
    closed = asyncio.create_task(ended(guest._reader))
    for seconds, byte in enumerate(data):
        if closed.done():
            return seconds
        if tls:
            await send_records(guest, bytes([byte]))
        else:
            guest._writer.write(bytes([byte]))
        await elapse(1)
    raise AssertionError("the broker read all of it")


async def test_a_handshake_byte_by_byte_does_not_extend_its_limit(broker: RunningBroker) -> None:
    """The limit applies to the whole handshake."""
    session = TlsSession(broker.context(None), server=False)
    session.handshake()
    reader, writer = await asyncio.open_connection(*broker.address)
    guest = GuestConnection(reader, writer, session)
    await until(lambda: broker.attested._tasks)
    seconds = await trickle(guest, session.outgoing(), tls=False)
    assert HANDSHAKE_SECONDS - TOLERANCE <= seconds <= HANDSHAKE_SECONDS + 1
    await nothing_stays(broker)
    assert lines(broker, address(guest)) == ["connection.timeout"]
    writer.close()


async def test_a_request_byte_by_byte_does_not_extend_its_limit(broker: RunningBroker) -> None:
    """The limit applies from the first byte of a request to its last."""
    async with broker.guest() as guest:
        peer = address(guest)
        await until(lambda: broker.events.named("guest.accepted"))  # in real time, in a thread
        seconds = await trickle(guest, b'{"command":"version","x":"' + b"x" * 200, tls=True)
    assert REQUEST_SECONDS - TOLERANCE <= seconds <= REQUEST_SECONDS + 1
    await nothing_stays(broker)
    assert lines(broker, peer) == ["guest.accepted", "connection.timeout"]


async def test_a_guest_that_never_reads_is_disconnected(broker: RunningBroker) -> None:
    """At most one answer is buffered outside the kernel, however many the guest requests."""
    store(broker, "resources/default/blob/1", os.urandom(LARGE))
    get = {"command": "Get Resource", "optional": {"resource_path": "default/blob/1"}}
    async with broker.guest() as guest:
        peer = address(guest)
        await send_records(guest, encoded(get) * 50)
        await until(lambda: broker.events.named("guest.accepted"))
        await elapse_until(lambda: not broker.attested._tasks)
    assert lines(broker, peer) == ["guest.accepted", "connection.timeout"]
    assert len(broker.events.named("secret.released")) <= KERNEL // LARGE + 1


async def test_idle_connections_are_limited_in_number_and_time(broker: RunningBroker) -> None:
    """Stop idle sockets from occupying the broker (defects.md 6): limits of number and time."""
    flood = [await asyncio.open_connection(*broker.address) for _ in range(60)]
    refused = len(flood) - CONNECTIONS
    await until(lambda: len(broker.events.named("connection.refused")) == refused)
    await elapse(HANDSHAKE_SECONDS)
    for reader, _ in flood:
        await ended(reader)
    await nothing_stays(broker)
    peers = ["{}:{}".format(*writer.get_extra_info("sockname")[:2]) for _, writer in flood]
    found = [lines(broker, peer) for peer in peers]
    assert (
        sorted(found) == [["connection.refused"]] * refused + [["connection.timeout"]] * CONNECTIONS
    )
    for _, writer in flood:
        writer.close()
