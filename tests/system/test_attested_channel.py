"""Requests of attested guests, on every kind of channel that real guests open."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import (
    VERSIONS,
    answer,
    ask,
    assert_no_secret,
    blob,
    encoded,
    nothing_stays,
    only,
    records,
    rest,
    send_records,
    store,
)
from tests.support.vectors import from_guide
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import guest_context
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform

FORMS = [form for form in Form if form is not Form.NULL]
PADDED = [form for form in FORMS if form is not Form.LEGACY]  # the raw quote has no CBOR
SELF_SIGNED = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, which guests accept
HEAP = b"\xbf\x9f\xff\xd9heap"
LAYER_KEY = b'{"symkey":"c2VjcmV0IG9mIHRoZSBsYXllcg=="}'


def _has_ipv6() -> bool:
    try:
        with closing(socket.socket(socket.AF_INET6)) as trial:
            trial.bind(("::1", 0))
    except OSError:
        return False
    return True


IPV6 = pytest.mark.skipif(not _has_ipv6(), reason="this host has no ::1")


async def ends_clean(broker: RunningBroker) -> None:
    """Wait until every connection is closed; check that no resource leaked."""
    await nothing_stays(broker)
    assert_no_secret(broker)


pytestmark = pytest.mark.broker(check=ends_clean)


async def every_command(guest: GuestConnection) -> None:
    """Send a request of each kind on one connection."""
    assert await guest.version() == "v1"
    iv = os.urandom(12)
    wrapped = AESGCM(KEY).encrypt(iv, LAYER_KEY, None)
    asked = blob(KID, wrapped, iv, "AES")
    assert await ask(guest, {"command": "Decrypt", "blobs": [asked]}) == {
        "status": "OK",
        "data": {asked["encrypted_data"]: base64.b64encode(LAYER_KEY).decode()},
    }
    assert await ask(guest, {"command": "Get KEK", "kids": [KID]}) == {
        "status": "OK",
        "data": {KID: base64.b64encode(KEY).decode()},
    }
    for name in ("Policy", "default/security-policy/test"):
        content = await guest.resource(name)
        assert json.loads(content.reveal()) == {
            "default": [{"type": "reject"}],
            "transports": {},
        }


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=IPV6)])
@pytest.mark.parametrize(
    ("form", "garbage"),
    [pytest.param(form, b"", id=form) for form in FORMS]
    + [pytest.param(form, HEAP, id=f"{form}-padded") for form in PADDED],
)
async def test_every_form_of_certificate_works_on_both_tls_versions_and_address_families(
    tmp_path: Path, host: str, form: Form, garbage: bytes
) -> None:
    """Guests with libcbor before 0.10 send padding behind the three CBOR buffers."""
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform, listen=f"{host}:0") as broker:
        for version in VERSIONS:
            context = guest_context(broker.attester(), form, now=broker.now, garbage=garbage)
            async with GuestConnection.open(*broker.address, only(context, version)) as guest:
                assert guest._session.version == version
                await every_command(guest)
        await nothing_stays(broker)
        assert len(broker.events.named("guest.accepted")) == len(VERSIONS)
        assert_no_secret(broker)


@pytest.mark.parametrize("version", VERSIONS)
async def test_each_resource_of_the_guide_is_answered_in_one_write(
    broker: RunningBroker, version: str
) -> None:
    """The guest of the guide requests by name, after it received the exact size."""
    policy = from_guide(r"response: (ewog[A-Za-z0-9+/=]+)").encode()
    cosign_key = from_guide(r"response: (LS0t[A-Za-z0-9+/]+==)").encode()
    store(broker, "image/policy.json", base64.b64decode(policy, validate=True))
    store(broker, "image/cosign.key", base64.b64decode(cosign_key, validate=True))
    context = only(broker.context(broker.attester(), Form.LEGACY), version)
    async with GuestConnection.open(*broker.address, context) as guest:
        for name, size, text in (("Policy", "452", policy), ("Cosign Key", "240", cosign_key)):
            info = await ask(guest, {"command": "Get Resource Info", "name": name})
            assert info == {"status": "OK", "data": {"base64size": size}}
            await send_records(guest, encoded({"command": f"Get {name}", "optional": {}}))
            assert await records(guest, len(text)) == [text]


async def test_commands_of_three_generations_are_answered_on_one_port(
    broker: RunningBroker,
) -> None:
    """wire-eaa.md, "Commands": every algorithm name with every shape of kid."""
    path_key = os.urandom(32)
    store(broker, "keys/default/key/1", path_key)
    policy = (broker.data / "image/policy.json").read_bytes()
    async with broker.guest() as guest:
        for kid, key in ((KID, KEY), ("default/key/1", path_key)):
            for algorithm in ("AES", "A256GCM"):
                iv = os.urandom(12)
                wrapped = AESGCM(key).encrypt(iv, LAYER_KEY, None)
                plaintext = await guest.decrypt(
                    kid=kid, encrypted_data=wrapped, algorithm=algorithm, iv=iv
                )
                assert plaintext.reveal() == LAYER_KEY
        for request in (
            {"command": "Get Policy", "optional": {}},
            {"command": "Get default/security-policy/test", "optional": {}},
            {
                "command": "Get Resource",
                "optional": {"resource_path": "default/security-policy/test"},
            },
        ):
            await send_records(guest, encoded(request))
            text = base64.b64encode(policy)
            assert await records(guest, len(text)) == [text]


async def test_a_key_that_ends_in_a_newline_is_not_stripped(broker: RunningBroker) -> None:
    """The key file of the guide ends in a newline; without it the key would have 31 bytes."""
    assert KEY.endswith(b"\n")
    assert len(KEY) == 32
    assert (broker.data / "keys" / KID).read_bytes() == KEY
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def test_a_key_is_fetched_as_a_resource_by_its_path(broker: RunningBroker) -> None:
    """storage.md: if no resource has the path, attested guests get the key of that name."""
    key = os.urandom(31) + b"\n"
    store(broker, "keys/default/key/1", key)
    async with broker.guest() as guest:
        assert (await guest.resource("default/key/1")).reveal() == key
        missing = await ask(guest, {"command": "Get Resource Info", "name": "default/key/2"})
        assert missing["status"] == "Fail"
    (released,) = broker.events.named("secret.released")
    assert (released["what"], released["path"]) == ("key", "keys/default/key/1")


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_request_may_be_split_after_every_byte(broker: RunningBroker, version: str) -> None:
    """defects.md 5: a request over two records was misread."""
    request = encoded({"command": "Get KEK", "kids": [KID]})
    expected = {"status": "OK", "data": {KID: base64.b64encode(KEY).decode()}}
    context = only(broker.context(broker.attester()), version)
    async with GuestConnection.open(*broker.address, context) as guest:
        for at in range(1, len(request)):
            await send_records(guest, request[:at], request[at:])
            assert await answer(guest) == expected
        await send_records(guest, *(bytes([byte]) for byte in request))
        assert await answer(guest) == expected


async def test_a_request_may_be_longer_than_4096_bytes(broker: RunningBroker) -> None:
    """defects.md 5: upstream cut a longer request. Here it has one record, or many."""
    blank = b" " * 5000
    request = encoded({"command": "version"})
    long = encoded({"command": "version", "more": "x" * 100_000})
    async with broker.guest() as guest:
        for sent in (request[:-1] + blank + request[-1:], blank + request, long):
            assert await ask(guest, sent) == {"status": "OK", "version": "v1"}
        kids = {"command": "Get KEK", "kids": [KID] * 200}
        assert len(encoded(kids)) > 4096
        assert (await ask(guest, kids))["data"] == {KID: base64.b64encode(KEY).decode()}


async def test_requests_in_one_record_are_answered_in_order(broker: RunningBroker) -> None:
    commands = ["first", "version", "second", "third"]
    together = b" \r\n".join(encoded({"command": command}) for command in commands)
    async with broker.guest() as guest:
        await send_records(guest, together + encoded({"command": "version"})[:5])
        for command in commands:
            found = await answer(guest)
            if command == "version":
                assert found == {"status": "OK", "version": "v1"}
            else:
                assert command in found["error"]
        # The begun request behind them waits for its end.
        await send_records(guest, encoded({"command": "version"})[5:])
        assert await answer(guest) == {"status": "OK", "version": "v1"}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("content_bytes", "expected"),
    [
        (1, [4]),
        (12_285, [16_380]),
        (12_288, [16_384]),
        (12_289, [16_384, 4]),
        (24_576, [16_384, 16_384]),
        (300_000, [16_384] * 24 + [6_784]),
    ],
)
async def test_an_answer_is_one_write(
    broker: RunningBroker, version: str, content_bytes: int, expected: list[int]
) -> None:
    """Full records and a shorter last one: the client stops reading at a short record."""
    content = os.urandom(content_bytes)
    store(broker, "resources/default/blob/1", content)
    context = only(broker.context(broker.attester()), version)
    async with GuestConnection.open(*broker.address, context) as guest:
        info = await ask(guest, {"command": "Get Resource Info", "name": "default/blob/1"})
        assert info["data"] == {"base64size": str(sum(expected))}
        path = {"resource_path": "default/blob/1"}
        await send_records(guest, encoded({"command": "Get Resource", "optional": path}))
        found = await records(guest, sum(expected))
        assert [len(record) for record in found] == expected
        assert b"".join(found) == base64.b64encode(content)
        assert await guest.version() == "v1"  # nothing came behind it
        # And as real clients read, with their buffer.
        assert (await guest.resource("default/blob/1")).reveal() == content


@pytest.mark.parametrize("after", [b"", b"y" * 99, b"z" * 40_000])
async def test_the_announced_size_is_sent_although_the_file_changes(
    broker: RunningBroker, after: bytes
) -> None:
    """wire-eaa.md: `base64size` must be the exact length of the text that follows."""
    before = b"x" * 20_000
    store(broker, "resources/default/blob/1", before)
    info = {"command": "Get Resource Info", "name": "default/blob/1"}
    get = {"command": "Get Resource", "optional": {"resource_path": "default/blob/1"}}
    async with broker.guest() as guest:
        size = int((await ask(guest, info))["data"]["base64size"])
        store(broker, "resources/default/blob/1", after)
        await send_records(guest, encoded(get))
        found = b"".join(await records(guest, size))
        assert found == base64.b64encode(before)
        # What was announced is used once; the next request sees the file as it is.
        told = await ask(guest, info)
        if after:
            assert told["data"] == {"base64size": str(len(base64.b64encode(after)))}
        else:
            assert told["status"] == "Fail"


async def test_an_unknown_command_keeps_the_connection_open(broker: RunningBroker) -> None:
    """defects.md 4: upstream closed without an answer."""
    async with broker.guest() as guest:
        for command in ("", "Version", "Get", "Get Nothing", "x" * 5000):
            told = await ask(guest, {"command": command})
            assert told["status"] == "Fail"
            assert told["data"] == {}
            assert told["error"].startswith("unknown command")
        assert await guest.version() == "v1"


async def test_wrong_parameters_are_answered_in_the_commands_own_form(
    broker: RunningBroker,
) -> None:
    """wire-eaa.md, forms A and B; the connection stays open."""
    async with broker.guest() as guest:
        for request in ({"command": "Decrypt"}, {"command": "Get KEK", "kids": "x"}):
            told = await ask(guest, request)
            assert (told["status"], told["data"]) == ("Fail", {})
        told = await ask(guest, {"command": "Get Resource Info"})
        assert sorted(told) == ["error", "status"]
        await send_records(guest, encoded({"command": "Get Resource", "optional": {}}))
        text = (await records(guest, 1))[0]
        assert sorted(json.loads(base64.b64decode(text, validate=True))) == ["error", "status"]
        assert await guest.version() == "v1"


async def test_an_invalid_request_is_answered_after_the_requests_before_it(
    broker: RunningBroker,
) -> None:
    """defects.md 4: a `Fail` answer, then the end, and nothing behind it is looked at."""
    async with broker.guest() as guest:
        version = encoded({"command": "version"})
        await send_records(guest, version + b"]" + version)
        assert await answer(guest) == {"status": "OK", "version": "v1"}
        told = json.loads(await rest(guest))
        assert (told["status"], told["data"]) == ("Fail", {})
    assert len(broker.events.named("request.answered")) == 1


async def test_echo_is_answered_unframed_and_closes_the_connection(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        version = encoded({"command": "version"})
        await send_records(guest, encoded({"command": "echo", "data": "grüß Gott"}) + version)
        assert await rest(guest) == "grüß Gott".encode()
    await nothing_stays(broker)
    (closed,) = broker.events.named("connection.closed", "connection.failed")
    assert "after the answer to echo" in str(closed["reason"])


async def reason_of_failure(broker: RunningBroker, context: SSL.Context) -> str:
    """Connect a guest that ends the handshake; return the reason that is logged."""
    with pytest.raises(BrokerRefused):
        async with GuestConnection.open(*broker.address, context) as guest:
            await guest.version()
    await nothing_stays(broker)
    (failed,) = broker.events.named("connection.failed")
    return str(failed["reason"])


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_guest_that_accepts_no_broker_without_evidence_is_named(
    broker: RunningBroker, version: str
) -> None:
    """rats-tls of 2023 finds no verifier for a certificate without evidence."""
    context = only(broker.context(broker.attester()), version)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: False)
    reason = await reason_of_failure(broker, context)
    assert "unknown ca: the guest accepts no broker without evidence" in reason
    assert "--attester tdx" in reason


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_guest_that_reports_a_bad_certificate_is_logged_with_a_hint_at_the_clocks(
    broker: RunningBroker, version: str
) -> None:
    """OpenSSL reports a certificate that is not valid yet by the guest's clock in this way."""
    context = only(broker.context(broker.attester()), version)
    trust = context.get_cert_store()
    assert trust is not None
    trust.set_time(datetime(1969, 1, 1, tzinfo=UTC))
    context.set_verify(
        SSL.VERIFY_PEER, lambda _a, _b, code, _d, ok: bool(ok) or code == SELF_SIGNED
    )
    reason = await reason_of_failure(broker, context)
    assert "bad certificate: the guest does not accept" in reason
    assert "compare the clocks" in reason


async def test_plain_http_on_the_attested_port_is_reported_as_that(broker: RunningBroker) -> None:
    reader, writer = await asyncio.open_connection(*broker.address)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    with suppress(ConnectionError):
        await reader.read()
    writer.close()
    await nothing_stays(broker)
    (failed,) = broker.events.named("connection.failed")
    assert "the peer sent plain HTTP" in str(failed["reason"])
