"""Attack: a client without a session makes the broker receive and read large bodies."""

from __future__ import annotations

import pytest
from aiohttp import web

from tests.support.broker import RunningBroker
from tests.support.kbs_raw import linked

HEAD = b"POST /kbs/v0/%b HTTP/1.1\r\nHost: broker\r\nContent-Length: 2000000\r\n%b\r\n"

pytestmark = [pytest.mark.broker(kbs=True), pytest.mark.usefixtures("unread")]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer with status 500 if the broker begins to receive a body; it would wait for the rest."""

    async def read(request: web.BaseRequest) -> bytes:
        raise AssertionError("the broker receives the body")

    monkeypatch.setattr(web.BaseRequest, "read", read)


@pytest.mark.parametrize("cookie", [b"", b"Cookie: kbs-session-id=" + b"0" * 64 + b"\r\n"])
async def test_a_client_without_a_session_is_refused_before_its_body(
    broker: RunningBroker, cookie: bytes
) -> None:
    async with linked(broker) as link:
        await link.send(HEAD % (b"attest", cookie))
        answer = await link.answer()
        assert answer is not None
        assert (answer.status, answer.variant) == (401, "TokenNotFound")


@pytest.mark.parametrize("path", [b"resource/a/b/c", b"resource-policy", b"reference-value"])
async def test_a_client_without_a_token_is_refused_before_its_body(
    broker: RunningBroker, path: bytes
) -> None:
    async with linked(broker) as link:
        await link.send(HEAD % (path, b""))
        answer = await link.answer()
        assert answer is not None
        assert answer.status in {401, 403}
