"""Trust of the HTTP listener in other brokers, in administrators and in its audit trail."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.broker import KEY, RunningBroker
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.kbs_admins import (
    POLICY,
    AdminTokens,
    administered,
    b64url,
    bearing,
    reference,
    variant,
)
from tests.support.rcar_guests import attested, connected, tdx_guest
from verdictd_py.guest.rcar.errors import KbsRefused

NOBODY = "package policy\nimport rego.v1\ndefault allow := false\n"
AUTH = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}


@pytest.fixture
def shared(tmp_path: Path) -> dict[str, Any]:
    """Return the settings that brokers behind one address share."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "token.key"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {"kbs_token_key": path, "kbs_sessions": tmp_path / "sessions"}


@pytest.fixture
async def broker(tmp_path: Path, tokens: AdminTokens) -> AsyncIterator[RunningBroker]:
    async with administered(tmp_path, tokens) as running:
        yield running


async def test_brokers_with_one_token_key_share_appraisals_but_not_release_policies(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    """A token proves that a guest was accepted; each broker decides about each secret itself."""
    async with (
        running_kbs(tmp_path / "one", **shared) as one,
        running_kbs(tmp_path / "two", platform=one.platform, **shared) as two,
    ):
        (two.data / "opa" / "tdxPolicy.rego").write_text(NOBODY)
        guest = tdx_guest(one.platform)
        async with connected(url_of(two), guest) as refused:
            with pytest.raises(KbsRefused, match="policy-refused"):
                await refused.handshake()
        async with attested(url_of(one), guest) as session:
            token = await session.token()
        async with connected(url_of(two), guest, token=token) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
            (two.data / "opa" / "releasePolicy.rego").write_text(NOBODY)
            with pytest.raises(KbsRefused) as raised:
                await session.get(str(PATH))
            assert (raised.value.status, raised.value.variant) == (403, "PolicyDeny")


async def test_a_token_of_a_test_broker_with_the_same_key_releases_nothing(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    """Its platform is simulated, and the other broker does not trust its root."""
    async with (
        running_kbs(tmp_path / "rehearsal", **shared) as rehearsal,
        running_kbs(tmp_path / "real", **shared) as real,
    ):
        guest = tdx_guest(rehearsal.platform)
        async with attested(url_of(rehearsal), guest) as session:
            token = await session.token()
            assert (await session.get(str(PATH))).reveal() == SECRET
        async with connected(url_of(real), guest, token=token) as session:
            with pytest.raises(KbsRefused, match="another root") as raised:
                await session.get(str(PATH))
        assert (raised.value.status, raised.value.variant) == (401, "TokenVerifierError")
        assert not real.events.named("secret.released")


async def test_a_planted_cookie_does_not_help_an_attacker(broker: RunningBroker) -> None:
    """A guest that begins gets a new session, also if it sends a cookie."""
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        planted = (await http.post("/kbs/v0/auth", json=AUTH)).cookies["kbs-session-id"]
        http.cookies.clear()
        headers = {"Cookie": f"kbs-session-id={planted}"}
        answer = await http.post("/kbs/v0/auth", json=AUTH, headers=headers)
        given = answer.cookies["kbs-session-id"]
        assert given != planted
        http.cookies.clear()
        found = await http.get(f"/kbs/v0/resource/{PATH}", headers=headers)
        assert (found.status_code, variant(found)) == (401, "TokenNotFound")
        made_up = {"Cookie": f"kbs-session-id={'0' * 64}"}
        answer = await http.post("/kbs/v0/auth", json=AUTH, headers=made_up)
        assert answer.cookies["kbs-session-id"] not in {"0" * 64, planted, given}


async def test_an_administrator_removed_from_the_file_loses_access(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """SIGHUP reads the file again; an unusable file changes nothing and is reported."""
    boss, ops = bearing(tokens.token("boss")), bearing(tokens.token("ops", "operator"))
    other = "/kbs/v0/resource/default/other/1"
    text = tokens.file.read_text()
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:

        async def statuses() -> list[int]:
            asked = [await http.get("/kbs/v0/resource-policy", headers=boss)]
            asked.append(await http.post(other, content=b"x", headers=ops))
            return [answer.status_code for answer in asked]

        assert await statuses() == [200, 200]
        tokens.file.write_text(text[text.index("[[key]]", 1) :])
        assert await statuses() == [200, 200]
        await broker.daemon.reload()
        assert await statuses() == [401, 200]
        (named,) = broker.events.named("kbs.administrators")
        assert named["names"] == ("boss", "ops", "team", "keyprovider")
        (reloaded,) = broker.events.named("daemon.reloaded")
        assert str(reloaded["changed"]).startswith('("HTTP administrator boss: removed, was ')
        for broken in ("[[key", ""):
            tokens.file.write_text(broken)
            await broker.daemon.reload()
            assert await statuses() == [401, 200]
            assert str(tokens.file) in str(broker.events.named("warning.reload")[-1]["problems"])
        assert len(broker.events.named("warning.reload")) == 2


async def test_an_administrator_is_removed_even_if_that_cannot_be_recorded(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    text, boss = tokens.file.read_text(), bearing(tokens.token("boss"))
    tokens.file.write_text(text[text.index("[[key]]", 1) :])
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        with without_trail(broker):
            await broker.daemon.reload()
        answer = await http.get("/kbs/v0/resource-policy", headers=boss)
    assert answer.status_code == 401
    (warning,) = broker.events.named("warning.reload")
    assert str(warning["changed"]).startswith('("HTTP administrator boss: removed, was ')


async def test_every_change_over_http_is_in_the_audit_trail(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    boss, keys = bearing(tokens.token("boss")), bearing(tokens.token("keyprovider"))
    policy = {"type": "rego", "policy_id": "default_cpu", "policy": b64url(POLICY)}
    changes: list[tuple[str, str, dict[str, Any], str]] = [
        ("POST", "resource/default/other/1", {"content": b"x", "headers": boss}, "resource.set"),
        ("DELETE", "resource/default/other/1", {"headers": boss}, "resource.deleted"),
        ("POST", "resource/default/key/9", {"content": KEY, "headers": keys}, "key.registered"),
        (
            "POST",
            "reference-value",
            {"json": reference({"mrTd": ["ab" * 48]}), "headers": boss},
            "policy.set",
        ),
        ("POST", "attestation-policy", {"json": policy, "headers": boss}, "policy.set"),
        (
            "POST",
            "resource-policy",
            {"json": {"policy": b64url(POLICY)}, "headers": boss},
            "policy.set",
        ),
    ]
    (trail,) = (broker.data / "audit").glob("*.jsonl")
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        for method, path, more, event in changes:
            before = len(trail.read_text().splitlines())
            answer = await http.request(method, f"/kbs/v0/{path}", **more)
            assert answer.status_code == 200, (path, answer.text)
            lines = [json.loads(line) for line in trail.read_text().splitlines()[before:]]
            assert event in [line["event"] for line in lines], path
            made = [line for line in lines if line["event"] != "file.changed"]
            callers = {str(line["fields"].get("caller")) for line in made}
            assert callers == {f"kbs admin {'keyprovider' if more['headers'] is keys else 'boss'}"}
    for headers in (boss, keys):
        assert headers["Authorization"].split()[1] not in trail.read_text()


@contextmanager
def without_trail(broker: RunningBroker) -> Iterator[None]:
    """Make writing to the audit trail fail: its directory is missing."""
    directory = broker.data / "audit"
    directory.rename(directory.with_name("away"))
    try:
        yield
    finally:
        directory.with_name("away").rename(directory)


async def test_a_missing_trail_prevents_releases_and_appraisals(broker: RunningBroker) -> None:
    """An action that cannot be recorded is refused, until the directory is there again."""
    guest = tdx_guest(broker.platform)
    async with attested(url_of(broker), guest) as good, connected(url_of(broker), guest) as new:
        with without_trail(broker):
            with pytest.raises(KbsRefused, match="not judged: audit-unavailable") as raised:
                await new.handshake()
            assert (raised.value.status, raised.value.variant) == (503, "AttestationError")
            with pytest.raises(KbsRefused) as raised:
                await new.get(str(PATH))
            assert (raised.value.status, raised.value.variant) == (401, "TokenNotFound")
            with pytest.raises(KbsRefused, match="audit trail cannot be written") as raised:
                await good.get(str(PATH))
            assert (raised.value.status, raised.value.variant) == (503, "PluginInternalError")
        assert not broker.events.named("secret.released")
        assert (await good.get(str(PATH))).reveal() == SECRET
        await new.handshake()
        assert (await new.get(str(PATH))).reveal() == SECRET
    assert len(broker.events.named("secret.released")) == 2


async def test_a_change_that_cannot_be_recorded_is_reported_as_a_failure(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """The change is not made, because its record comes first."""
    where, boss = "/kbs/v0/resource/default/other/1", bearing(tokens.token("boss"))
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        with without_trail(broker):
            answer = await http.post(where, content=b"x", headers=boss)
        assert (answer.status_code, variant(answer)) == (500, "PluginInternalError")
        assert not (broker.data / "resources/default/other/1").exists()
        assert (await http.post(where, content=b"x", headers=boss)).status_code == 200
