"""What an attested guest can do, on every kind of channel real guests open."""

from __future__ import annotations

import base64
import json
import os
import socket
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.system.broker import KEY, KID, RunningBroker, running_broker
from tests.system.channel import VERSIONS, ask, assert_no_secret, blob, nothing_stays, only, store
from verdictd_py import app
from verdictd_py.guest.attesters import guest_context
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform

FORMS = [form for form in Form if form is not Form.NULL]
PADDED = [form for form in FORMS if form is not Form.LEGACY]  # the raw quote has no CBOR
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


@pytest_asyncio.fixture
async def broker(tmp_path: Path) -> AsyncIterator[RunningBroker]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_broker(tmp_path, platform) as running:
        yield running
        await nothing_stays(running)
        assert_no_secret(running)


async def every_command(guest: GuestConnection) -> None:
    """One request of each kind on one connection."""
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
        assert json.loads(content.reveal()) == {"default": [{"type": "reject"}]}


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=IPV6)])
@pytest.mark.parametrize(
    ("form", "garbage"),
    [pytest.param(form, b"", id=form) for form in FORMS]
    + [pytest.param(form, HEAP, id=f"{form}-padded") for form in PADDED],
)
async def test_every_certificate_on_both_versions_and_families(
    tmp_path: Path, host: str, form: Form, garbage: bytes
) -> None:
    """Padding behind the three CBOR buffers is what guests with libcbor before 0.10 send."""
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
