"""Keys and policies that current tools register over HTTP, and their use by guests."""

from __future__ import annotations

import base64
import os
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.support.broker import RunningBroker
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.kbs_admins import AdminTokens, b64url, bearing
from tests.support.kbs_raw import once
from tests.support.rcar_guests import attested, tdx_guest
from verdictd_py.domain.names import ResourcePath

pytestmark = pytest.mark.broker(kbs=True)

PATH_OF_KEY = "default/key/6f1c2f0e-5a2e-4a7b-9a43-0d2f0c4b7f11"
LAYER_KEY = b'{"symkeyopts":"of a layer, as ocicrypt wraps it"}'


@pytest.fixture
def broker_settings(tokens: AdminTokens) -> dict[str, Any]:
    return {"kbs_admins": tokens.file}


async def test_an_image_key_that_coco_keyprovider_registers_decrypts_for_every_guest(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """The request is that of the tool, which ignores the answer, so that the log must report it."""
    key, iv = os.urandom(32), os.urandom(12)
    host = url_of(broker).removeprefix("http://")
    head = (
        f"POST /kbs/v0/resource/{PATH_OF_KEY} HTTP/1.1\r\n"
        "content-type: application/octet-stream\r\n"
        f"authorization: Bearer {tokens.token('keyprovider')}\r\n"
        f"accept: */*\r\nhost: {host}\r\ncontent-length: 32\r\n\r\n"
    )
    answer = await once(broker, head.encode() + key)
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"")
    wrapped = AESGCM(key).encrypt(iv, LAYER_KEY, None)
    async with broker.guest() as guest:
        opened = await guest.decrypt(
            kid=PATH_OF_KEY, encrypted_data=wrapped, algorithm="A256GCM", iv=iv
        )
    assert opened.reveal() == LAYER_KEY
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        fetched = await session.resource(ResourcePath.parse(PATH_OF_KEY))
    assert AESGCM(fetched.reveal()).decrypt(iv, wrapped, None) == LAYER_KEY
    registered = broker.events.named("key.registered")
    assert registered == [{"caller": "kbs admin keyprovider", "kid": PATH_OF_KEY}]
    for form in (key.hex(), base64.b64encode(key).decode(), repr(key)[2:-1]):
        assert form not in broker.events.text


async def test_an_appraisal_policy_with_a_trust_vector_and_no_allow_is_refused(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """It would refuse every guest, so that the previous policy stays in force."""
    vector = "package policy\n\nimport rego.v1\n\ndefault executables := 33\n\nexecutables := 3\n"
    said = {"type": "rego", "policy_id": "default_cpu", "policy": b64url(vector.encode())}
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        headers = bearing(tokens.token("boss", "admin"))
        answer = await http.post("/kbs/v0/attestation-policy", json=said, headers=headers)
    assert (answer.status_code, answer.json()["type"][-16:]) == (400, "ParsePolicyError")
    detail = answer.json()["detail"]
    assert "an attestation policy of trustee" in detail
    assert "write a rule `allow` that compares `input` with `data`" in detail
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
