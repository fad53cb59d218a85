"""The guide on one broker: the answers that the guide prints are sent byte for byte."""

from __future__ import annotations

import base64

import pytest
from OpenSSL import SSL

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.vectors import from_guide
from verdictd_py.errors import EvidenceMissing
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls.issue import Form

pytestmark = pytest.mark.broker(verifier=("tdx",))

FORMS = [form for form in Form if form is not Form.NULL]


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("form", FORMS)
async def test_guests_of_every_generation_get_the_resources_of_the_guide(
    broker: RunningBroker, form: Form, version: int
) -> None:
    policy = from_guide(r"response: (ewog[A-Za-z0-9+/=]+)")
    cosign_key = from_guide(r"response: (LS0t[A-Za-z0-9+/]+==)")
    assert (len(policy), len(cosign_key)) == (452, 240)
    image = broker.data / "image"
    (image / "policy.json").write_bytes(base64.b64decode(policy))
    (image / "cosign.key").write_bytes(base64.b64decode(cosign_key))
    context = broker.context(broker.attester(), form)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    async with GuestConnection.open(*broker.address, context) as guest:
        for name, blob in (("Policy", policy), ("Cosign Key", cosign_key)):
            info = await guest.call({"command": "Get Resource Info", "name": name})
            assert info == {"status": "OK", "data": {"base64size": str(len(blob))}}
            answer = await guest._exchange({"command": f"Get {name}", "optional": {}}, len(blob))
            assert answer == blob.encode()
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    assert KEY[:31].decode() not in broker.events.text
    assert base64.b64encode(KEY).decode() not in broker.events.text


async def test_a_guest_without_evidence_gets_only_a_code(broker: RunningBroker) -> None:
    """defects.md 7: a guest without evidence is refused, with or without --mutual."""
    context = broker.context(None)
    with pytest.raises(BrokerRefused, match=EvidenceMissing.code) as caught:
        async with GuestConnection.open(*broker.address, context) as guest:
            await guest.keks([KID])
    (refused,) = broker.events.named("guest.refused")
    assert str(refused["appraisal"]) in str(caught.value)
    assert not broker.events.named("request.received", "secret.released")


@pytest.mark.parametrize(
    "kid", ["../../../../etc/shadow", "/etc/shadow", "..", "a/../b", "a\0b", ""]
)
async def test_no_name_escapes_the_store(broker: RunningBroker, kid: str) -> None:
    """defects.md 1: upstream appended a kid to a path unchecked."""
    async with broker.guest() as guest:
        with pytest.raises(BrokerRefused, match=r"segment|URI"):
            await guest.keks([kid])
        with pytest.raises(BrokerRefused, match=r"segment|URI"):
            await guest.decrypt(kid=kid, encrypted_data=b"x" * 32, algorithm="AES", iv=bytes(12))
        assert await guest.version() == "v1"


async def test_pinned_measurements_decide_and_the_refusal_reports_both_values(
    broker: RunningBroker,
) -> None:
    """defects.md 8 and 17: measurements reach the policy, and a refusal has reasons."""
    pinned = "ab" * 48
    (broker.data / "opa" / "tdxData").write_text('{"rtmr1":["' + pinned + '"]}')
    with pytest.raises(BrokerRefused, match="policy-refused") as caught:
        async with broker.guest() as guest:
            await guest.keks([KID])
    (refused,) = broker.events.named("guest.refused")
    reasons = refused["reasons"]
    assert isinstance(reasons, tuple)
    (reason,) = reasons
    assert reason.startswith("rtmr1: measured ")
    assert pinned in reason
    assert pinned not in str(caught.value)


async def test_a_missing_resource_is_reported_as_a_resource(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        with pytest.raises(BrokerRefused, match="there is no resource default/cosign-public-key"):
            await guest.resource("Cosign Key")


async def test_a_key_is_fetched_as_a_resource_by_attested_guests(broker: RunningBroker) -> None:
    key = broker.data / "keys" / "default" / "key" / "1"
    key.parent.mkdir(parents=True)
    key.write_bytes(KEY)
    async with broker.guest() as guest:
        assert (await guest.resource("default/key/1")).reveal() == KEY
    (released,) = broker.events.named("secret.released")
    assert (released["what"], released["path"]) == ("key", "keys/default/key/1")
