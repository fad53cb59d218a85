"""Refused guests: the operator reads the reasons, the guest receives a code and an id."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from OpenSSL import SSL

from tests.support.bad_guests import (
    Contexts,
    anothers_extension,
    anothers_quote,
    fresh_key,
    issued,
    of_another_root,
    simulated,
)
from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.channel import (
    VERSIONS,
    ask,
    assert_no_secret,
    encoded,
    nothing_stays,
    only,
    refusal,
    rest,
    send_records,
    store,
)
from tests.support.clock import elapse_until, until
from tests.support.events import RecordedEvents
from tests.support.ratstls import key_der
from verdictd_py import daemon as app
from verdictd_py.config import Settings, Unsafe
from verdictd_py.errors import ConfigError
from verdictd_py.guest.attesters import use_certificate
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.protocols.ratstls.session import TlsSession, client_context
from verdictd_py.simulator import Flaw, PlatformOptions, SimulatedPlatform, TdMeasurements

MARK = "a-command-that-nobody-may-look-at"


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=app.utc_now())


async def told(broker: RunningBroker, context: SSL.Context) -> str:
    """What a peer is told that asks at once; it must never be looked at.

    In TLS 1.3 the request is on its way before the broker has judged the certificate.
    """
    async with GuestConnection.open(*broker.address, context) as guest:
        asked = encoded({"command": MARK}) + encoded({"command": "Get KEK", "kids": [KID]})
        await send_records(guest, asked, b"\xff" * 20_000)
        answer = await rest(guest)
    await nothing_stays(broker)
    assert MARK not in broker.events.text
    assert not broker.events.named("request.received", "request.failed", "secret.released")
    assert_no_secret(broker)
    found = json.loads(answer)
    assert (found["status"], found["data"]) == ("Fail", {})
    return str(found["error"])


async def refused(broker: RunningBroker, context: SSL.Context) -> dict[str, Any]:
    """Return the event of a refusal, after a check that the peer received only code and id."""
    answer = await told(broker, context)
    assert not broker.events.named("guest.accepted")
    (event,) = broker.events.named("guest.refused")
    expected = f"refused: {event['code']}; ask the operator about {event['appraisal']}"
    assert answer == expected
    return event


async def refused_client(broker: RunningBroker, request: dict[str, Any]) -> str:
    """Return what attestation-agent prints of a refusal: it sends `version`, then a request."""
    async with GuestConnection.open(*broker.address, broker.context(None)) as guest:
        assert await ask(guest, {"command": "version"}) == {"status": "OK", "version": "v1"}
        await send_records(guest, encoded(request))
        answer = await rest(guest)
    await nothing_stays(broker)
    if not answer.startswith(b"{"):
        answer = base64.b64decode(answer, validate=True)
    return str(json.loads(answer)["error"])


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"command": "Get Resource Info", "name": "Policy"}, id="up-to-v0.4"),
        pytest.param({"command": "Get Resource Info", "name": "default/key/1"}, id="from-v0.5"),
        pytest.param(
            {"command": "Get Resource", "optional": {"resource_path": "a/b/c"}}, id="resource"
        ),
        pytest.param({"command": "Decrypt", "blobs": []}, id="decrypt"),
    ],
)
async def test_a_refused_attestation_agent_prints_the_code(
    broker: RunningBroker, request_: dict[str, Any]
) -> None:
    """Its first command is `version`, of whose failure it prints nothing."""
    text = await refused_client(broker, request_)
    (event,) = broker.events.named("guest.refused")
    assert text == f"refused: evidence-missing; ask the operator about {event['appraisal']}"
    assert not broker.events.named("request.received", "request.answered", "guest.accepted")


async def test_a_refused_guest_that_sends_nothing_receives_the_refusal(
    broker: RunningBroker,
) -> None:
    async with GuestConnection.open(*broker.address, broker.context(None)) as guest:
        await until(lambda: broker.events.named("guest.refused"))
        received = asyncio.ensure_future(rest(guest))
        await elapse_until(lambda: received.done() or not broker.attested._tasks, step=10)
        assert b"refused: evidence-missing" in await received
    await nothing_stays(broker)


async def test_a_refused_connection_may_be_closed_for_another_one(
    broker: RunningBroker,
) -> None:
    """It waits for a request, and would otherwise use capacity as if it had proven something."""
    async with GuestConnection.open(*broker.address, broker.context(None)):
        # It waits for a request.
        await until(lambda: broker.events.named("guest.refused") and broker.attested._idle)
        shares = broker.attested.shares
        assert (len(shares._new), shares._evidence.total) == (1, 0)


YEAR_AND_A_DAY = timedelta(days=366)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("contexts", "code", "reason"),
    [
        pytest.param(lambda b: b.context(None), "evidence-missing", "no evidence", id="null"),
        *(
            pytest.param(anothers_quote(form), "binding-mismatch", "reportData", id=f"quote-{form}")
            for form in (Form.LEGACY, Form.BARE, Form.CURRENT)
        ),
        *(
            pytest.param(anothers_extension(form), "binding-mismatch", "key", id=f"evidence-{form}")
            for form in (Form.LEGACY, Form.BARE, Form.CURRENT)
        ),
        *(pytest.param(simulated(flaw=flaw), "quote-invalid", "", id=flaw.name) for flaw in Flaw),
        pytest.param(
            simulated(measurements=TdMeasurements().debug()), "policy-refused", "debug", id="debug"
        ),
        pytest.param(issued(-YEAR_AND_A_DAY), "evidence-expired", "not valid after", id="expired"),
        pytest.param(
            issued(timedelta(days=2)), "evidence-from-future", "not valid before", id="not-yet"
        ),
        pytest.param(of_another_root(endorse=False), "quote-invalid", "", id="other-root"),
        pytest.param(of_another_root(endorse=True), "quote-invalid", "", id="other-root-endorsed"),
    ],
)
async def test_a_refused_guest_receives_only_a_code_and_an_id(
    tmp_path: Path,
    platform: SimulatedPlatform,
    contexts: Contexts,
    code: str,
    reason: str,
    version: str,
) -> None:
    """defects.md 7, 8 and 9: nothing falls back, and debug TDs are refused."""
    async with running_broker(tmp_path, platform) as broker:
        event = await refused(broker, only(contexts(broker), version))
    assert event["code"] == code
    assert re.search(reason, repr(event["reasons"]), re.IGNORECASE)


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (PlatformOptions(pck_revoked=True), "quote-invalid", "revoked"),
        (PlatformOptions(pck_ca_revoked=True), "quote-invalid", "revoked"),
        (PlatformOptions(tcb_status="OutOfDate"), "policy-refused", "OutOfDate"),
        (PlatformOptions(tcb_status="Revoked"), "tcb-status", "revoked"),
    ],
)
async def test_a_revoked_or_outdated_platform_is_refused(
    tmp_path: Path,
    platform: SimulatedPlatform,
    options: PlatformOptions,
    code: str,
    reason: str,
) -> None:
    """defects.md 9: upstream accepted `OUT_OF_DATE`."""
    async with running_broker(tmp_path, platform.with_options(options)) as broker:
        event = await refused(broker, broker.context(broker.attester()))
    assert event["code"] == code
    assert re.search(reason, repr(event["reasons"]), re.IGNORECASE)


async def test_a_pinned_measurement_decides(tmp_path: Path, platform: SimulatedPlatform) -> None:
    """defects.md 8: measurements never reached the policy.

    The operator sees measured and expected side by side, the peer neither.
    """
    pinned, measured = "ab" * 48, TdMeasurements().rtmr1.hex()
    async with running_broker(tmp_path, platform) as broker:
        store(broker, "opa/tdxData", json.dumps({"rtmr1": [pinned]}).encode())
        event = await refused(broker, broker.context(broker.attester()))  # its told text is exact
        assert event["code"] == "policy-refused"
        (text,) = event["reasons"]
        assert re.match("rtmr1: measured .*expected", text)
        assert pinned in text
        assert measured in text
        # The same guest is let in once its own value is there: a file edited by hand counts.
        store(broker, "opa/tdxData", json.dumps({"rtmr1": [pinned, measured]}).encode())
        async with broker.guest() as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY


@pytest.mark.parametrize(("age", "accepted"), [(1800, False), (7200, True)])
async def test_the_age_of_evidence_is_limited(
    tmp_path: Path, platform: SimulatedPlatform, age: int, accepted: bool
) -> None:
    """defects.md 18: upstream accepted old evidence. Genuine evidence begins an hour ago."""
    async with running_broker(tmp_path, platform, max_evidence_age=age) as broker:
        if accepted:
            async with broker.guest() as guest:
                assert await guest.version() == "v1"
            return
        event = await refused(broker, broker.context(broker.attester()))
        assert event["code"] == "evidence-expired"


@pytest.mark.parametrize("version", VERSIONS)
async def test_without_a_certificate_there_is_no_session(
    tmp_path: Path, platform: SimulatedPlatform, version: str
) -> None:
    """defects.md 7: upstream accepted clients without a certificate."""
    context = only(client_context(key_der(fresh_key())), version)
    async with running_broker(tmp_path, platform) as broker:
        with pytest.raises(BrokerRefused, match=r"alert|handshake"):
            async with GuestConnection.open(*broker.address, context) as guest:
                await guest.keks([KID])
        await nothing_stays(broker)
        (failed,) = broker.events.named("connection.failed")
        assert "did not return a certificate" in str(failed["reason"])
        assert not broker.events.named("guest.accepted", "request.received")


async def test_guests_of_a_tee_without_a_chosen_verifier_are_refused(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_broker(tmp_path, platform, verifier=("sgx",)) as broker:
        event = await refused(broker, broker.context(broker.attester()))
        assert event["code"] == "evidence-format"


async def test_without_collateral_no_guest_is_appraised(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    """A guest is neither accepted nor refused; a guest that sends collateral is accepted."""
    async with running_broker(tmp_path, platform, collateral=None) as broker:
        async with broker.guest() as guest:  # it stays connected, and prints the second answer
            assert await ask(guest, {"command": "version"}) == {"status": "OK", "version": "v1"}
            answer = await ask(guest, {"command": "Get KEK", "kids": [KID]})
            assert answer["error"] == "not judged: collateral-unavailable; try again later"
            assert (await ask(guest, {"command": "version"}))["status"] == "Fail"
        assert_no_secret(broker)
        assert len(broker.events.named("guest.not-judged")) == 1
        assert not broker.events.named("guest.accepted", "guest.refused", "secret.released")
        async with broker.guest(broker.attester(endorse=True)) as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY


async def test_nullverifier_needs_its_flag(tmp_path: Path) -> None:
    """defects.md 7: upstream fell back to it by itself."""
    settings = Settings(verifier=("nullverifier",), data_dir=tmp_path / "data")
    with pytest.raises(ConfigError, match="--insecure-nullverifier"):
        app.build_daemon(settings, Unsafe(), RecordedEvents())


@pytest.mark.parametrize("version", VERSIONS)
async def test_nullverifier_accepts_clients_without_a_certificate(
    tmp_path: Path, platform: SimulatedPlatform, version: str
) -> None:
    context = only(client_context(key_der(fresh_key())), version)
    async with running_broker(
        tmp_path,
        platform,
        unsafe={"insecure_nullverifier": True, "unsafe_tdx_root_ca": None},
        verifier=("nullverifier",),
    ) as broker:
        async with GuestConnection.open(*broker.address, context) as guest:
            assert (await guest.keks([KID]))[KID].reveal() == KEY
        async with broker.guest() as guest:
            assert await guest.version() == "v1"
        assert {"flag": "--insecure-nullverifier"} in broker.events.named("unsafe.option")


@asynccontextmanager
async def offering(
    broker: RunningBroker, context: SSL.Context, session: SSL.Session
) -> AsyncIterator[GuestConnection]:
    """Return a guest without evidence that offers to resume another guest's session."""
    tls = TlsSession(context, server=False)
    tls._connection.set_session(session)
    key = fresh_key()
    der = issue(Form.NULL, key=key, quote_for=None, now=broker.now)
    tls._connection.use_certificate(x509.load_der_x509_certificate(der))
    tls._connection.use_privatekey(key)
    reader, writer = await asyncio.open_connection(*broker.address)
    guest = GuestConnection(reader, writer, tls)
    try:
        await guest._handshake()
        yield guest
    finally:
        guest._close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_one_guests_session_never_serves_another(
    tmp_path: Path, platform: SimulatedPlatform, version: str
) -> None:
    """defects.md 16: resumption skips the certificate and with it the evidence."""
    async with running_broker(tmp_path, platform) as broker:
        # Unlike our own client's, this context takes tickets and keeps sessions.
        context = only(SSL.Context(SSL.TLS_CLIENT_METHOD), version)
        key = fresh_key()
        quote_for = broker.attester().quote
        use_certificate(context, issue(Form.CURRENT, key=key, quote_for=quote_for, now=broker.now))
        context.use_privatekey(key)
        async with GuestConnection.open(*broker.address, context) as guest:
            assert await guest.version() == "v1"
            session = guest._session._connection.get_session()
        assert session is not None
        broker.events.events.clear()
        async with offering(broker, context, session) as guest:
            assert b"refused: evidence-missing" in await refusal(guest)
        await nothing_stays(broker)
        assert not broker.events.named("guest.accepted")
