"""Two brokers whose HTTP guests' sessions are in one engine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from tests.support.broker import running_broker
from tests.support.kbs import PATH, SECRET, new_token_key, refusal_of, running_kbs, url_of
from tests.support.rcar_guests import connected, session_id, tdx_guest, use_session_id
from tests.support.valkey import ValkeyServer, needs_valkey, running_valkey
from verdictd_py import daemon as app
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.simulator import SimulatedPlatform

pytestmark = needs_valkey


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey") as server:
        yield server


@pytest.fixture
def shared(tmp_path: Path, engine: ValkeyServer) -> dict[str, Any]:
    """Return the settings that the brokers share."""
    return {"kbs_sessions": engine.url, "kbs_token_key": new_token_key(tmp_path)}


async def test_a_guest_attests_at_one_broker_and_fetches_at_the_other(
    tmp_path: Path, shared: dict[str, Any]
) -> None:
    async with (
        running_kbs(tmp_path / "one", **shared) as one,
        running_kbs(tmp_path / "two", platform=one.platform, **shared) as two,
    ):
        guest = tdx_guest(one.platform)
        async with (
            connected(url_of(one), guest) as first,
            connected(url_of(two), guest) as second,
        ):
            body = await first.answer(await first.auth())
            use_session_id(second, session_id(first))
            results = await asyncio.gather(
                *(each.attest(body) for each in (first, second) * 3), return_exceptions=True
            )
            refusals = [each for each in results if isinstance(each, KbsRefused)]
            assert [each.variant for each in refusals] == ["TokenNotFound"] * 5  # spent once
            assert (await first.get(str(PATH))).reveal() == SECRET
            assert (await second.get(str(PATH))).reveal() == SECRET


async def test_requests_fail_with_503_while_the_engine_is_down(
    tmp_path: Path, shared: dict[str, Any], engine: ValkeyServer
) -> None:
    """The cause is in the log and in the readiness; the guest receives no verdict."""
    async with running_kbs(tmp_path / "one", **shared) as broker:
        guest = tdx_guest(broker.platform)
        async with connected(url_of(broker), guest) as session:
            body = await session.answer(await session.auth())
            engine.stop()
            assert await refusal_of(session.attest(body)) == (503, "PluginInternalError")
            assert await refusal_of(session.get(str(PATH))) == (503, "PluginInternalError")
            await broker.daemon._parts.health.examine()
            reasons = [str(failed["reason"]) for failed in broker.events.named("request.failed")]
            assert all(str(engine.port) in reason for reason in reasons)
            assert "sessions" in str(broker.events.named("warning.readiness"))
            engine.start()
            await broker.daemon._parts.health.examine()
        async with connected(url_of(broker), guest) as session:
            await session.attest(await session.answer(await session.auth()))
            assert (await session.get(str(PATH))).reveal() == SECRET
        assert not broker.events.named("warning.bug")


async def test_brokers_without_a_key_file_share_keys_in_their_store(
    tmp_path: Path, engine: ValkeyServer
) -> None:
    """The second broker runs after the first, on the same directory, and accepts its token."""
    platform, token = SimulatedPlatform.create(now=app.utc_now()), None
    guest = tdx_guest(platform)
    for added in (1, 0):
        async with running_broker(
            tmp_path, platform, kbs_http="127.0.0.1:0", kbs_sessions=engine.url
        ) as broker:
            async with connected(url_of(broker), guest, token=token) as session:
                if token is None:
                    await session.attest(await session.answer(await session.auth()))
                    token = await session.token()
                absent = await refusal_of(session.get("default/none/1"))
                assert absent == (404, "PluginInternalError")
            assert len(broker.events.named("kbs.token-key-added")) == added


async def test_nothing_in_the_server_is_secret(
    tmp_path: Path, shared: dict[str, Any], engine: ValkeyServer
) -> None:
    """Neither the secret nor what a guest authenticates with, in any usual form."""
    engine.command("CONFIG", "SET", "rdbcompression", "no")
    async with (
        running_kbs(tmp_path / "one", **shared) as broker,
        connected(url_of(broker), tdx_guest(broker.platform)) as session,
    ):
        await session.attest(await session.answer(await session.auth()))
        assert (await session.get(str(PATH))).reveal() == SECRET
        cookie = session_id(session).encode()
        engine.command("SAVE")
        stored = (engine.directory / "dump.rdb").read_bytes()
    key = load_pem_private_key(shared["kbs_token_key"].read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    private = key.private_numbers().private_value.to_bytes(32)
    assert hashlib.sha256(cookie).hexdigest().encode() in stored  # the session is there
    for secret in (SECRET, cookie, bytes.fromhex(cookie.decode()), private):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret).rstrip(b"=")):
            assert form not in stored
