"""Invalid input to the HTTP listener: an answer or the end, and at most one log line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.hostile_requests import (
    AUTH,
    CANARY,
    REFUSED,
)
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.kbs_admins import AdminTokens
from tests.support.kbs_raw import all_closed, lines, once, request
from tests.support.rcar_guests import attested, tdx_guest

CONNECTIONS = 20


async def still_serves(broker: RunningBroker) -> None:
    """Check that a genuine guest is served and no internal error was reported."""
    await all_closed(broker)
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
    await all_closed(broker)
    assert not broker.events.named("warning.bug")
    assert CANARY not in broker.events.text


@pytest.fixture
def broker_settings(tokens: AdminTokens) -> dict[str, Any]:
    return {"kbs_admins": tokens.file}


pytestmark = pytest.mark.broker(kbs=True, max_connections=CONNECTIONS, check=still_serves)


@pytest.mark.parametrize("which", REFUSED)
async def test_an_invalid_request_is_one_answer_and_one_log_line(
    broker: RunningBroker, which: str
) -> None:
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


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/kbs/v0/openapi.json"])
async def test_head_is_answered_as_get_without_the_body(broker: RunningBroker, path: str) -> None:
    get = await once(broker, request("GET", path))
    head = await once(broker, request("HEAD", path), head=True)
    assert get is not None
    assert head is not None
    assert (head.status, head.body, get.status) == (200, b"", 200)
    for name, unsaid in (("content-length", "0"), ("content-type", None), ("server", None)):
        assert head.headers.get(name, unsaid) == get.headers.get(name, unsaid)


async def test_head_of_other_paths_has_no_body(broker: RunningBroker) -> None:
    statuses = {f"/kbs/v0/resource/{PATH}": 401, "/kbs/v0/auth": 405, "/none": 404}
    for path, status in statuses.items():
        answer = await once(broker, request("HEAD", path), head=True)
        assert answer is not None
        assert answer.status == status


@pytest.mark.parametrize("method", ["HEAD", "GET", "OPTIONS"])
async def test_a_probe_is_no_warning(broker: RunningBroker, method: str) -> None:
    answer = await once(broker, request(method, "/healthz"), head=method != "GET")
    assert answer is not None
    assert answer.status in (200, 204)
    assert lines(broker) == []


async def test_options_is_answered_with_the_methods_of_the_path(broker: RunningBroker) -> None:
    for path, methods in {
        "/healthz": "GET, HEAD, OPTIONS",
        "/kbs/v0/auth": "OPTIONS, POST",
        f"/kbs/v0/resource/{PATH}": "DELETE, GET, HEAD, OPTIONS, POST",
    }.items():
        answer = await once(broker, request("OPTIONS", path), head=True)
        assert answer is not None
        assert (answer.status, answer.headers.get("allow")) == (204, methods)
        assert "access-control-allow-origin" not in answer.headers
    missing = await once(broker, request("OPTIONS", "/none"))
    assert missing is not None
    assert missing.status == 404


async def test_too_many_headers_are_answered_as_that(broker: RunningBroker) -> None:
    headers = {f"X-{number}": "x" for number in range(100)}
    answer = await once(broker, request("GET", "/healthz", headers=headers))
    assert answer is not None
    assert answer.status == 431
    assert b"more than 64 headers" in answer.body


@pytest.mark.parametrize(
    "target",
    [
        "http://kbs/kbs/v0/auth",
        "http://somebody.else:99/kbs/v0/auth",
        "/kbs/v0/auth?x=y",
        "/kbs/v0/%61uth",
    ],
)
async def test_other_spellings_of_a_path_are_refused(broker: RunningBroker, target: str) -> None:
    answer = await once(broker, request("POST", target, AUTH))
    assert answer is not None
    assert answer.status == 200
    assert set(json.loads(answer.body)) == {"nonce", "extra-params"}


async def test_health_requests_are_not_logged(broker: RunningBroker) -> None:
    answer = await once(broker, request("GET", "/healthz"))
    assert answer is not None
    assert (answer.status, answer.body, lines(broker)) == (200, b"", [])
