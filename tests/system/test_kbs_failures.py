"""Failures behind the HTTP listener: sessions, collateral, time limits, internal errors."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.clock import elapse, until
from tests.support.kbs import PATH, SECRET, new_token_key, refusal_of, running_kbs, url_of
from tests.support.kbs_raw import all_closed, linked, request
from tests.support.pccs import Pccs, running_pccs
from tests.support.rcar_guests import attested, connected, session_id, tdx_guest, use_session_id
from verdictd_py import daemon as app
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.session import RcarSession
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.simulator.pcs import PcsAnswer
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore

pytestmark = pytest.mark.broker(kbs=True)

SECRET_OF_OURS = "9f2c-what-the-exception-says"


@pytest.fixture
def token_key(tmp_path: Path) -> Path:
    return new_token_key(tmp_path)


@pytest.fixture
def broker_settings(
    tmp_path: Path, token_key: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Return settings with sessions in a file and without a wait for its lock."""
    impatient = partial(SqliteSessionStore.open, busy_seconds=0)
    monkeypatch.setattr(SqliteSessionStore, "open", impatient)
    return {"kbs_sessions": tmp_path / "sessions", "kbs_token_key": token_key}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Lock the file, as a backup program may do."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


async def test_requests_fail_with_503_only_while_sessions_cannot_be_stored(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """auth, attest and GET each write one log line; a token needs no session."""
    guest = tdx_guest(broker.platform)
    async with attested(url_of(broker), guest) as good, connected(url_of(broker), guest) as half:
        token = await good.token()
        use_session_id(good, session_id(good))
        body = await half.answer(await half.auth())
        broker.events.events.clear()
        with locked(tmp_path / "sessions"):
            async with connected(url_of(broker), guest) as new:
                assert await refusal_of(new.auth()) == (503, "PluginInternalError")
            assert await refusal_of(half.attest(body)) == (503, "PluginInternalError")
            assert await refusal_of(good.get(str(PATH))) == (503, "PluginInternalError")
            async with connected(url_of(broker), guest, token=token) as bearing:
                assert (await bearing.get(str(PATH))).reveal() == SECRET
        failed = broker.events.named("request.failed")
        assert [fields["status"] for fields in failed] == ["503"] * 3
        assert {fields["reason"] for fields in failed} == {
            "the sessions cannot be used: database is locked"
        }
        assert (await good.get(str(PATH))).reveal() == SECRET
        await half.attest(body)  # its challenge was not spent
        assert (await half.get(str(PATH))).reveal() == SECRET
    assert not broker.events.named("warning.bug")


async def test_guests_of_the_other_listener_do_not_wait_for_sessions(
    tmp_path: Path, token_key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many HTTP guests wait for a file that another process has locked."""
    patient = partial(SqliteSessionStore.open, busy_seconds=60)
    monkeypatch.setattr(SqliteSessionStore, "open", patient)
    async with running_kbs(
        tmp_path, kbs_sessions=tmp_path / "sessions", kbs_token_key=token_key
    ) as broker:
        with locked(tmp_path / "sessions"):
            async with httpx.AsyncClient(base_url=url_of(broker), timeout=120) as http:
                said = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}
                waiting = [
                    asyncio.create_task(http.post("/kbs/v0/auth", json=said)) for _ in range(40)
                ]
                await until(partial(holds, broker, 40))
                async with broker.guest() as guest:
                    assert (await guest.keks([KID]))[KID].reveal() == KEY
                assert holds(broker, 40)
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_damaged_database_of_sessions_is_replaced(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """Its sessions are lost, so that guests attest again."""
    guest = tdx_guest(broker.platform)
    async with attested(url_of(broker), guest) as session:
        for path in tmp_path.glob("sessions*"):
            with path.open("r+b") as file:
                file.write(b"\xff" * max(path.stat().st_size, 65_536))
        assert (await refusal_of(session.get(str(PATH))))[0] == 401
    async with attested(url_of(broker), guest) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
    assert broker.events.named("warning.storage")
    assert not broker.events.named("warning.bug")


async def test_two_brokers_share_the_session_of_a_guest(tmp_path: Path, token_key: Path) -> None:
    """One broker sends the challenge, the other appraises, and the first serves the guest."""
    where: dict[str, Any] = {"kbs_sessions": tmp_path / "sessions", "kbs_token_key": token_key}
    async with (
        running_kbs(tmp_path / "one", **where) as one,
        running_kbs(tmp_path / "two", platform=one.platform, **where) as two,
    ):
        guest = tdx_guest(one.platform)
        async with (
            connected(url_of(one), guest) as first,
            connected(url_of(two), guest) as second,
        ):
            body = await first.answer(await first.auth())
            use_session_id(second, session_id(first))
            token = await second.attest(body)
            assert await refusal_of(first.attest(body)) == (401, "TokenNotFound")  # spent there
            assert (await first.get(str(PATH))).reveal() == SECRET
            assert (await second.get(str(PATH))).reveal() == SECRET
        for broker in (one, two):
            async with connected(url_of(broker), guest, token=token) as session:
                assert (await session.get(str(PATH))).reveal() == SECRET
        assert [b.events.named("guest.accepted") != [] for b in (one, two)] == [False, True]
        assert [len(b.events.named("secret.released")) for b in (one, two)] == [2, 2]
        async with httpx.AsyncClient() as http:
            found = [(await http.get(f"{url_of(b)}/kbs/v0/jwks")).json() for b in (one, two)]
        assert found[0] == found[1]


async def test_a_challenge_is_answered_once_across_two_brokers(
    tmp_path: Path, token_key: Path
) -> None:
    """The two answers arrive at the same time."""
    where: dict[str, Any] = {"kbs_sessions": tmp_path / "sessions", "kbs_token_key": token_key}
    async with (
        running_kbs(tmp_path / "one", **where) as one,
        running_kbs(tmp_path / "two", platform=one.platform, **where) as two,
    ):
        guest = tdx_guest(one.platform)
        async with (
            connected(url_of(one), guest) as first,
            connected(url_of(two), guest) as second,
        ):
            for _ in range(10):
                body = await first.answer(await first.auth())
                use_session_id(second, session_id(first))
                results = await asyncio.gather(
                    *(each.attest(body) for each in (first, second) * 3), return_exceptions=True
                )
                refusals = [each for each in results if isinstance(each, KbsRefused)]
                assert len(refusals) == 5
                assert {(e.status, e.variant) for e in refusals} == {(401, "TokenNotFound")}


@pytest.fixture
async def pccs() -> AsyncIterator[Pccs]:
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with running_pccs(platform) as running:
        yield running


async def attest_answer(session: RcarSession, broker: RunningBroker) -> httpx.Response:
    """Return the answer to the second request of a handshake as it was received."""
    body = await session.answer(await session.auth())
    cookies = {"kbs-session-id": session_id(session)}
    async with httpx.AsyncClient(cookies=cookies, timeout=3600) as http:
        return await http.post(f"{url_of(broker)}/kbs/v0/attest", json=body)


async def test_a_guest_that_cannot_be_appraised_is_asked_to_try_again(
    tmp_path: Path, pccs: Pccs
) -> None:
    pccs.change = lambda path, answer: PcsAnswer(500)
    async with running_kbs(
        tmp_path, platform=pccs.platform, collateral=None, collateral_url=(pccs.url,)
    ) as broker:
        guest = tdx_guest(broker.platform)
        async with connected(url_of(broker), guest) as session:
            answer = await attest_answer(session, broker)
            assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
            assert answer.json()["type"].endswith("/AttestationError")
            assert await refusal_of(session.get(str(PATH))) == (401, "TokenNotFound")
            assert "http" not in answer.json()["detail"]  # who was asked is the operator's business
        assert pccs.url in str(broker.events.named("guest.not-judged")[0]["reason"])
        assert len(broker.events.named("guest.not-judged")) == 1
        failed = broker.events.named("request.failed")
        assert [fields["code"] for fields in failed] == ["session-invalid"]  # the GET's


async def test_an_appraisal_ends_at_its_time_limit(tmp_path: Path, pccs: Pccs) -> None:
    pccs.stalled = True
    async with running_kbs(
        tmp_path,
        platform=pccs.platform,
        collateral=None,
        collateral_url=(pccs.url,),
        appraisal_timeout=120,
    ) as broker:
        async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
            answering = asyncio.create_task(attest_answer(session, broker))
            await until(lambda: pccs.asked)
            await elapse(120)
            answer = await answering
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.json()["detail"] == "not judged: timeout; try again later"
        (unjudged,) = broker.events.named("guest.not-judged")
        assert unjudged["code"] == "timeout"
        assert unjudged["reason"] == "appraisal took longer than 120.0 s"
        assert not broker.events.named("request.failed")
        pccs.go_on.set()


@pytest.mark.parametrize("error", [RuntimeError, ConnectionResetError, OSError, KeyError])
async def test_an_internal_error_is_reported_only_as_an_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    async with running_kbs(tmp_path) as broker:
        kbs = broker.kbs

        def fail(*_: object, **__: object) -> None:
            raise error(SECRET_OF_OURS)

        monkeypatch.setattr(type(kbs.guests._handshakes._tokens), "issue", fail)
        async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
            answer = await attest_answer(session, broker)
        bug = broker.events.named("warning.bug")[-1]
        assert (answer.status_code, set(answer.json())) == (503, {"type", "detail"})
        assert str(bug["incident"]) in answer.json()["detail"]
        assert (bug["doing"], bug["error"]) == ("POST /attest", error.__name__)
        for text in (answer.text, broker.events.text):
            assert SECRET_OF_OURS not in text
            assert "Traceback" not in text
        monkeypatch.undo()
        async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET


def holds(broker: RunningBroker, number: int) -> bool:
    """Return whether `number` connections count, open or not, with an answer due on each."""
    kbs = broker.kbs
    due = [each.answering for each in kbs._acceptor._tasks.values() if each]
    return due == [True] * number


async def test_a_guest_that_disconnects_counts_until_its_appraisal_ends(
    tmp_path: Path, pccs: Pccs
) -> None:
    """Repeated requests without waiting must not cause more appraisals at once than the limit."""
    pccs.stalled = True
    async with running_kbs(
        tmp_path,
        platform=pccs.platform,
        collateral=None,
        collateral_url=(pccs.url,),
        max_connections=3,
    ) as broker:
        for number in range(3):
            async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
                body = json.dumps(await session.answer(await session.auth())).encode()
                cookie = {"Cookie": f"kbs-session-id={session_id(session)}"}
            await until(partial(holds, broker, number))
            async with linked(broker) as link:
                await link.send(request("POST", "/kbs/v0/attest", body, cookie))
                await until(partial(holds, broker, number + 1))
        async with linked(broker) as link:
            assert await link.closed()
        assert len(broker.events.named("connection.refused")) == 1
        pccs.go_on.set()
        pccs.stalled = False
        await all_closed(broker)
        async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET


async def test_a_guest_that_disconnects_is_not_an_internal_error(
    tmp_path: Path, pccs: Pccs
) -> None:
    """Also if it disconnects during its appraisal."""
    pccs.stalled = True
    async with running_kbs(
        tmp_path, platform=pccs.platform, collateral=None, collateral_url=(pccs.url,)
    ) as broker:
        async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
            body = await session.answer(await session.auth())
            cookie = {"Cookie": f"kbs-session-id={session_id(session)}"}
            async with linked(broker) as link:
                data = json.dumps(body).encode()
                await link.send(request("POST", "/kbs/v0/attest", data, cookie))
                await until(lambda: bool(pccs.asked))
        pccs.go_on.set()
        pccs.stalled = False
        async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
        assert not broker.events.named("warning.bug")
