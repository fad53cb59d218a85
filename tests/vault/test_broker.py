"""A whole broker whose resources below a prefix are in a real OpenBao, with attested guests."""

from __future__ import annotations

import asyncio
import secrets
import signal
from typing import Any

import pytest

from tests.support.broker import RunningBroker
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.rcar_guests import connected, tdx_guest
from tests.support.vault import Engine, encoded
from tools.engines.openbao import OpenBao
from verdictd_py.domain.names import ResourcePath
from verdictd_py.guest.rcar.errors import KbsRefused

pytestmark = pytest.mark.broker(kbs=True)

DB = ResourcePath.parse("team/creds/db")
IMAGE = ResourcePath.parse("team/image/1")
CONTENT = b"the password of a test's database"


@pytest.fixture
def base() -> str:
    return f"b{secrets.token_hex(6)}"


@pytest.fixture
def transit(own_engine: Engine) -> str:
    return own_engine.transit_key()


@pytest.fixture
def broker_settings(own_engine: Engine, base: str, transit: str) -> dict[str, Any]:
    backend = {
        "prefix": "team/",
        "vault": own_engine.location("secret"),
        "path": f"{base}/resources",
        "transit_key": f"transit/{transit}",
        "keys_path": f"{base}/keys",
    }
    return {"resource_backend": (backend,)}


async def test_a_guest_gets_a_resource_and_a_wrapped_key(
    broker: RunningBroker, own_engine: Engine, base: str, transit: str
) -> None:
    own_engine.call("POST", f"secret/data/{base}/resources/creds/db", {"data": {"value": "x"}})
    fields = {"base64": encoded(CONTENT)}
    own_engine.call("POST", f"secret/data/{base}/resources/creds/db", {"data": fields})
    key = secrets.token_bytes(32)
    body = {"plaintext": encoded(key), "associated_data": encoded(str(IMAGE).encode())}
    wrapped = own_engine.call("POST", f"transit/encrypt/{transit}", body)["data"]["ciphertext"]
    own_engine.call("POST", f"secret/data/{base}/keys/image/1", {"data": {"transit": wrapped}})
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        assert (await session.resource(DB)).reveal() == CONTENT
        assert (await session.resource(IMAGE)).reveal() == key
    released = [fields["path"] for fields in broker.events.named("secret.released")]
    assert released == ["resources/team/creds/db", "keys/team/image/1"]
    assert CONTENT.decode() not in broker.events.text
    assert encoded(CONTENT) not in broker.events.text


async def test_an_outage_is_an_internal_error_and_other_paths_are_served(
    broker: RunningBroker, own_engine: Engine, own_server: OpenBao, base: str
) -> None:
    fields = {"value": CONTENT.decode()}
    own_engine.call("POST", f"secret/data/{base}/resources/creds/db", {"data": fields})
    async with connected(url_of(broker), tdx_guest(broker.platform)) as session:
        await asyncio.to_thread(own_server.stop, signal.SIGKILL)
        try:
            with pytest.raises(KbsRefused) as refused:
                await session.resource(DB)
            assert refused.value.status >= 500
            assert (await session.resource(PATH)).reveal() == SECRET
        finally:
            await asyncio.to_thread(own_server.start)
        assert (await session.resource(DB)).reveal() == CONTENT
    assert broker.events.named("secret.released")
