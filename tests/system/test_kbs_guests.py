"""HTTP guests of every version, by a client that shares no code with the listener."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from tests.support import rcar_guests as support
from tests.support.broker import KEY, RunningBroker
from tests.support.eventlogs import event, written
from tests.support.kbs import PATH, POLICY, SECRET, running_kbs, url_of
from tests.support.rcar_guests import EVERY_GUEST, attest, attested, connected, tdx_guest
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import decode_object
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import MemberOrder, Version
from verdictd_py.protocols.rcar.versions import Version as Served
from verdictd_py.simulator import Flaw, TdMeasurements

pytestmark = pytest.mark.broker(kbs=True)

INIT_DATA = 'version = "0.1.0"\nalgorithm = "sha384"\n\n[data]\n"aa.toml" = "text"\n'


def code_of(broker: RunningBroker) -> str:
    """Return the code that the last refused guest received."""
    return str(broker.events.named("guest.refused")[-1]["code"])


@pytest.mark.parametrize(("version", "kind"), EVERY_GUEST)
async def test_a_guest_of_every_version_gets_a_resource(
    broker: RunningBroker, version: Version, kind: TeeKeyKind
) -> None:
    """The guest requests, is asked to attest, and decrypts the answer with its own key."""
    guest = tdx_guest(broker.platform, version, kind)
    async with connected(url_of(broker), guest) as session:
        assert (await session.resource(PATH)).reveal() == SECRET
        content = (await session.resource(POLICY)).reveal()
        assert content == b'{"default":[{"type":"reject"}],"transports":{}}\n'
    released = broker.events.named("secret.released")
    assert [fields["path"] for fields in released] == [
        "resources/default/key/1",
        "image/policy.json",
    ]
    accepted = broker.events.named("guest.accepted")[0]
    assert accepted["form"] == f"rcar {version.value}"
    assert {fields["appraisal"] for fields in released} == {accepted["appraisal"]}
    assert repr(SECRET)[2:-1] not in broker.events.text


def test_every_version_of_the_client_is_served() -> None:
    assert {version.value for version in Version} == {version.value for version in Served}


@pytest.mark.parametrize("version", [Version.V0_1_1, Version.V0_2_0])
async def test_older_guests_hash_their_key_in_either_order(
    broker: RunningBroker, version: Version
) -> None:
    for order in MemberOrder:
        guest = tdx_guest(broker.platform, version, order=order)
        async with attested(url_of(broker), guest) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET


async def test_a_key_is_fetched_as_a_resource(broker: RunningBroker) -> None:
    key = broker.data / "keys" / "default" / "kek" / "7"
    key.parent.mkdir(parents=True)
    key.write_bytes(KEY)
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        found = await session.resource(ResourcePath.parse("default/kek/7"))
    assert found.reveal() == KEY


async def test_a_token_replaces_a_session(broker: RunningBroker) -> None:
    guest = tdx_guest(broker.platform)
    async with attested(url_of(broker), guest) as session:
        token = await session.token()
    async with connected(url_of(broker), guest, token=token) as session:
        assert (await session.get(f"{PATH}?x=y")).reveal() == SECRET


TAMPERED = [
    pytest.param(support.with_nonce("bm90IHRoaXMgb25l"), "nonce-mismatch", id="nonce"),
    pytest.param(
        support.with_key(TeeKey.new(TeeKeyKind.EC_P256, Version.V0_4_0).jwk),
        "binding-mismatch",
        id="key",
    ),
    pytest.param(support.with_additional('{"nvidia": {}}'), "binding-mismatch", id="additional"),
    pytest.param(
        support.with_init_data(INIT_DATA.replace("text", "tact")), "init-data", id="init-data"
    ),
    pytest.param(support.with_event_log(b"\x00" * 40), "evidence-format", id="no event log"),
    pytest.param(
        support.with_event_log(written(event(2, 0x80000003, b"kernel"))),
        "event-log",
        id="event-log",
    ),
    pytest.param(
        support.with_quote(lambda quote: quote[:300] + b"\xff" + quote[301:]),
        "quote-invalid",
        id="quote",
    ),
]


@pytest.mark.parametrize(("tamper", "code"), TAMPERED)
async def test_a_message_changed_in_transit_is_refused(
    broker: RunningBroker, tamper: support.Tamper, code: str
) -> None:
    guest = tdx_guest(broker.platform, init_data=INIT_DATA)
    async with connected(url_of(broker), guest) as session:
        with pytest.raises(KbsRefused) as raised:
            await attest(session, tamper)
        assert (raised.value.status, raised.value.variant) == (401, "AttestationError")
        told = broker.events.named("guest.refused")[-1]
        assert raised.value.detail == f"refused: {code}; ask the operator about {told['appraisal']}"
        assert code_of(broker) == code
        with pytest.raises(KbsRefused) as again:  # and the session is worth nothing
            await session.get(str(PATH))
    assert again.value.status == 401
    assert not broker.events.named("secret.released")


@pytest.mark.parametrize(
    ("flaw", "td", "code"),
    [
        (Flaw.CHANGED_AFTER_SIGNING, None, "quote-invalid"),
        (None, TdMeasurements().debug(), "policy-refused"),
    ],
)
async def test_the_appraiser_is_the_same_for_every_guest(
    broker: RunningBroker, flaw: Flaw | None, td: TdMeasurements | None, code: str
) -> None:
    guest = tdx_guest(broker.platform, flaw=flaw, td=td)
    async with connected(url_of(broker), guest) as session:
        with pytest.raises(KbsRefused):
            await session.handshake()
    assert code_of(broker) == code


async def test_a_challenge_can_be_answered_only_once(broker: RunningBroker) -> None:
    guest = tdx_guest(broker.platform)
    async with connected(url_of(broker), guest) as session:
        body = await session.answer(await session.auth())
        bad = json.loads(json.dumps(body))
        support.with_nonce("b3RoZXI=")(bad)
        with pytest.raises(KbsRefused, match="nonce-mismatch"):
            await session.attest(bad)
        with pytest.raises(KbsRefused, match="answered already") as raised:
            await session.attest(body)
    assert (raised.value.status, raised.value.variant) == (401, "TokenNotFound")


async def test_an_answer_is_accepted_in_its_own_session_only(broker: RunningBroker) -> None:
    """Neither the evidence nor the cookie of another guest is accepted."""
    one, two = tdx_guest(broker.platform), tdx_guest(broker.platform)
    async with (
        attested(url_of(broker), one) as honest,
        connected(url_of(broker), two) as thief,
    ):
        body = await honest.answer(await honest.auth())
        await thief.auth()
        with pytest.raises(KbsRefused, match="nonce-mismatch"):
            await thief.attest(body)
        support.use_session_id(thief, support.session_id(honest) + "0")
        with pytest.raises(KbsRefused) as raised:
            await thief.get(str(PATH))
        assert raised.value.status == 401


async def test_a_stolen_cookie_discloses_nothing(broker: RunningBroker) -> None:
    """The answer is encrypted to the key of the guest that attested."""
    async with (
        attested(url_of(broker), tdx_guest(broker.platform)) as honest,
        connected(url_of(broker), tdx_guest(broker.platform)) as thief,
    ):
        support.use_session_id(thief, support.session_id(honest))
        with pytest.raises(Exception, match="answer"):
            await thief.get(str(PATH))


async def test_a_replayed_answer_is_refused(broker: RunningBroker) -> None:
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        body = await session.answer(await session.auth())
        await session.attest(body)
        for _ in range(2):
            with pytest.raises(KbsRefused, match="answered already"):
                await session.attest(body)
        assert (await session.get(str(PATH))).reveal() == SECRET  # the session stays good


async def test_forged_tokens_are_refused(broker: RunningBroker) -> None:
    guest = tdx_guest(broker.platform)
    async with attested(url_of(broker), guest) as session:
        good = await session.token()
    async with httpx.AsyncClient() as http:
        jwks = (await http.get(f"{url_of(broker)}/kbs/v0/jwks")).content
    tricks = {
        "another key, its own jwk": support.forged(good),
        "no later end": support.forged(good, claims={"exp": 2**33}),
        "no algorithm": support.unsigned(good),
        "an algorithm in capitals": support.unsigned(good, "NONE"),
        "without signature": support.unsigned(good, "ES256"),
        "the public key as a secret": support.keyed_with_public_key(good, jwks),
        "the x coordinate as a secret": support.keyed_with_public_key(
            good, json.dumps(good.header["jwk"]).encode()
        ),
        "without header's jwk": support.forged(good, header={"jwk": None}),
    }
    for name, token in tricks.items():
        async with connected(url_of(broker), guest, token=token) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.get(str(PATH))
        assert (raised.value.status, raised.value.variant) == (401, "TokenVerifierError"), name
    assert not broker.events.named("secret.released")


async def test_a_token_expires(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running_kbs(tmp_path) as broker:
        guest = tdx_guest(broker.platform)
        async with attested(url_of(broker), guest) as session:
            token = await session.token()
            later = broker.now + timedelta(minutes=6)
            kbs = broker.kbs
            monkeypatch.setattr(kbs.guests._handshakes, "_clock", lambda: later)
            with pytest.raises(KbsRefused) as raised:
                await session.get(str(PATH))
            assert raised.value.variant == "TokenNotFound"
        async with connected(url_of(broker), guest, token=token) as session:
            with pytest.raises(KbsRefused, match="the token has expired") as raised:
                await session.get(str(PATH))
            assert (raised.value.status, raised.value.variant) == (401, "TokenVerifierError")


async def test_another_broker_refuses_tokens_of_this_one(tmp_path: Path) -> None:
    async with running_kbs(tmp_path / "one") as one:
        guest = tdx_guest(one.platform)
        async with attested(url_of(one), guest) as session:
            token = await session.token()
        async with (
            running_kbs(tmp_path / "two", platform=one.platform) as two,
            connected(url_of(two), guest, token=token) as session,
        ):
            with pytest.raises(KbsRefused, match="not signed by a trusted key"):
                await session.get(str(PATH))


async def test_the_policy_reads_verified_init_data(broker: RunningBroker) -> None:
    (broker.data / "opa" / "tdxPolicy.rego").write_text(
        "package policy\nimport rego.v1\ndefault allow := false\n"
        'allow if input.initData.data["aa.toml"] == "text"\n'
        'reasons contains "no init-data" if input.initData == null\n'
    )
    with_data = tdx_guest(broker.platform, init_data=INIT_DATA)
    async with attested(url_of(broker), with_data) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        with pytest.raises(KbsRefused):
            await session.handshake()
    assert broker.events.named("guest.refused")[-1]["reasons"] == ("no init-data",)


async def test_claims_too_long_for_a_token_reach_the_policy(broker: RunningBroker) -> None:
    """A release policy that refuses for an event or a line of init-data gets all of them."""
    long = INIT_DATA + f'"policy.rego" = "{"x" * 200_000}"\n'
    bad = event(2, 0x80000003, b"a kernel that is not wanted")
    boot = [event(1, 4, bytes(4)), *(event(3, 0x80000003, bytes([n % 256])) for n in range(600))]
    (broker.data / "opa" / "releasePolicy.rego").write_text(
        "package policy\nimport rego.v1\ndefault allow := false\n"
        "allow if not unwanted\n"
        "unwanted if { some each in input.claims.eventLog.events; "
        f'each.digest == "{bad.digest.hex()}" }}\n'
        'unwanted if startswith(input.claims.initData.data["policy.rego"], "y")\n'
    )
    for log, init_data, good in (
        (boot, long, True),
        ([*boot, bad], long, False),
        (boot, long.replace("xx", "yy"), False),
    ):
        guest = tdx_guest(broker.platform, init_data=init_data, event_log=written(*log))
        async with attested(url_of(broker), guest) as session:
            token = await session.token()
            assert len(token.content) < 32 * 1024
            async with connected(url_of(broker), guest, token=token) as by_token:
                for each in (session, by_token):
                    if good:
                        assert (await each.get(str(PATH))).reveal() == SECRET
                    else:
                        with pytest.raises(KbsRefused) as raised:
                            await each.get(str(PATH))
                        assert (raised.value.status, raised.value.variant) == (403, "PolicyDeny")


async def test_unverified_devices_are_accepted_only_by_the_policy(
    broker: RunningBroker,
) -> None:
    guest = tdx_guest(broker.platform, additional=lambda digest: '{"nvidia":{"e":"x"}}')
    async with connected(url_of(broker), guest) as session:
        with pytest.raises(KbsRefused):
            await session.handshake()
    refused = broker.events.named("guest.refused")[-1]
    told = (
        "unverifiedDevices: there is no verifier for nvidia, "
        "and the policy does not name it in accept_unverified_devices"
    )
    assert refused["reasons"] == (told,)
    policy = broker.data / "opa" / "tdxPolicy.rego"
    policy.write_text(policy.read_text() + '\naccept_unverified_devices := ["nvidia"]\n')
    async with attested(url_of(broker), guest) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET


async def test_a_denied_resource_looks_like_a_missing_one(broker: RunningBroker) -> None:
    (broker.data / "opa" / "releasePolicy.rego").write_text(
        "package policy\nimport rego.v1\ndefault allow := false\n"
        'allow if trim_prefix(input.resource.path, "keys/") in ["default/key/1", "default/key/2"]\n'
    )
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
        for path, status, variant in (
            ("default/key/2", 404, "PluginInternalError"),
            ("default/security-policy/test", 403, "PolicyDeny"),
            ("default/security-policy/none", 403, "PolicyDeny"),
            ("default/../key", 404, "InvalidRequestPath"),
            ("..%2f..%2fkeys/a/b", 404, "InvalidRequestPath"),
            ("one/two", 404, "InvalidRequestPath"),
        ):
            with pytest.raises(KbsRefused) as raised:
                await session.get(path)
            assert (raised.value.status, raised.value.variant) == (status, variant), path


async def test_many_concurrent_sessions_are_all_served(broker: RunningBroker) -> None:
    many = asyncio.Semaphore(100)

    async def one() -> bytes:
        async with many, connected(url_of(broker), guest, timeout_seconds=120) as session:
            return (await session.resource(PATH)).reveal()

    guest = tdx_guest(broker.platform)
    assert set(await asyncio.gather(*(one() for _ in range(300)))) == {SECRET}
    assert len(broker.events.named("guest.accepted")) == 300


async def test_unsupported_versions_and_tees_are_refused(broker: RunningBroker) -> None:
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:

        async def auth(version: object, tee: object) -> httpx.Response:
            said = {"version": version, "tee": tee, "extra-params": ""}
            return await http.post("/kbs/v0/auth", json=said)

        for version in ("0.1.0", "0.3.0", "0.5.0", "", "0.4", "🙂"):
            answer = await auth(version, "tdx")
            assert answer.status_code == 401
            detail = decode_object(answer.content, "")["detail"]
            assert "KBS Client Protocol Version Mismatch: expect " in str(detail)
        for tee in ("snp", "sample", "csv", "nvidia", "", "none"):
            answer = await auth("0.4.0", tee)
            assert (answer.status_code, answer.json()["type"][-16:]) == (401, "AttestationError")
            assert "not served here" in answer.json()["detail"]
        assert (await auth(4, "tdx")).status_code == 400
        good = await auth("0.4.0", "tdx")
        assert set(good.json()) == {"nonce", "extra-params"}
        cookie = good.headers["Set-Cookie"]
        assert {part.strip() for part in cookie.split(";")[1:]} == {
            "Path=/kbs",
            "HttpOnly",
            "Max-Age=300",
        }
