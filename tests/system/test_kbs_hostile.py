"""What strangers send to the HTTP listener: a clear answer or the end, and one line at most."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker
from tests.support.hostile_requests import (
    AUTH,
    CANARY,
    REFUSED,
)
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.kbs_admins import AdminTokens
from tests.support.kbs_raw import all_closed, lines, once, request
from tests.support.rcar_guests import attested, tdx_guest

CONNECTIONS = 20


@pytest.fixture
async def broker(tmp_path: Path, tokens: AdminTokens) -> AsyncIterator[RunningBroker]:
    """One that must be as good as new afterwards."""
    async with running_kbs(
        tmp_path,
        kbs_admins=tokens.file,
        max_connections=CONNECTIONS,
    ) as running:
        yield running
        await all_closed(running)
        async with attested(url_of(running), tdx_guest(running.platform)) as session:
            assert (await session.get(str(PATH))).reveal() == SECRET
        await all_closed(running)
        assert not running.events.named("warning.bug")
        assert CANARY not in running.events.text


@pytest.mark.parametrize("which", REFUSED)
async def test_a_refusal_is_one_answer_and_one_line(broker: RunningBroker, which: str) -> None:
    data, status, variant = REFUSED[which]
    answer = await once(broker, data)
    assert answer is not None
    assert answer.status == status
    assert answer.variant == variant
    assert ("allow" in answer.headers) == (status == 405)
    assert answer.headers["server"] == "verdictd-py"
    assert CANARY.encode() not in answer.body
    assert "Traceback" not in answer.body.decode()
    assert len(lines(broker)) == 1


async def test_head_has_no_body(broker: RunningBroker) -> None:
    for path in ("/healthz", f"/kbs/v0/resource/{PATH}", "/none"):
        answer = await once(broker, request("HEAD", path), head=True)
        assert answer is not None
        assert answer.status == (404 if path == "/none" else 405)


@pytest.mark.parametrize(
    "target",
    [
        "http://kbs/kbs/v0/auth",
        "http://somebody.else:99/kbs/v0/auth",
        "/kbs/v0/auth?x=y",
        "/kbs/v0/%61uth",
    ],
)
async def test_other_spellings_of_an_address(broker: RunningBroker, target: str) -> None:
    answer = await once(broker, request("POST", target, AUTH))
    assert answer is not None
    assert answer.status == 200
    assert set(json.loads(answer.body)) == {"nonce", "extra-params"}


async def test_health_is_no_line(broker: RunningBroker) -> None:
    answer = await once(broker, request("GET", "/healthz"))
    assert answer is not None
    assert (answer.status, answer.body, lines(broker)) == (200, b"", [])
