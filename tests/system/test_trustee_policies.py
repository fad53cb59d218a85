"""Release policies with the names that trustee's KBS passes, in a running broker."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from tests.policy.trustee_policies import HEAD, OPEN, PROVED, TRUSTED
from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import store
from tests.support.kbs import PATH, SECRET, url_of
from tests.support.kbs_admins import AdminTokens, b64url, bearing
from tests.support.rcar_guests import attested, sample_guest, tdx_guest
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.session import RcarGuest

FLAGS = {"insecure_sample_verifier": True, "insecure_sample_data_dir": True}
pytestmark = pytest.mark.broker(kbs=True, unsafe=FLAGS)

Setting = Callable[[RunningBroker, AdminTokens, str], Awaitable[None]]


@pytest.fixture
def broker_settings(tokens: AdminTokens) -> dict[str, Any]:
    return {"kbs_admins": tokens.file}


async def over_http(broker: RunningBroker, tokens: AdminTokens, policy: str) -> None:
    """Set a policy as `kbs-client config set-resource-policy` does."""
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        answer = await http.post(
            "/kbs/v0/resource-policy",
            json={"policy": b64url(policy.encode())},
            headers=bearing(tokens.token("boss", "admin")),
        )
    assert (answer.status_code, answer.content) == (200, b"")


async def in_the_directory(broker: RunningBroker, tokens: AdminTokens, policy: str) -> None:
    del tokens
    store(broker, "opa/releasePolicy.rego", policy.encode())


async def released(broker: RunningBroker, guest: RcarGuest) -> bool:
    async with attested(url_of(broker), guest) as session:
        try:
            return (await session.get(str(PATH))).reveal() == SECRET
        except KbsRefused as refused:
            if (refused.status, refused.variant) != (403, "PolicyDeny"):
                raise
            return False


async def status(broker: RunningBroker, guest: RcarGuest) -> str:
    async with attested(url_of(broker), guest) as session:
        said: Any = (await session.token()).claims
    return str(said["submods"]["cpu0"]["ear.status"])


async def pin(broker: RunningBroker) -> None:
    """Pin every measurement of the honest TDX guest."""
    assert await status(broker, tdx_guest(broker.platform)) == "warning"
    claims = await claims_of(broker, tdx_guest(broker.platform))
    names = list(json.loads((broker.data / "opa" / "tdxData").read_text()))
    lists = {name: [claims[name]] for name in names}
    store(broker, "opa/tdxData", json.dumps(lists).encode())


async def claims_of(broker: RunningBroker, guest: RcarGuest) -> Any:
    async with attested(url_of(broker), guest) as session:
        said: Any = (await session.token()).claims
    return said["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["tdx"]


@pytest.mark.parametrize("set_policy", [over_http, in_the_directory])
@pytest.mark.parametrize(
    ("policy", "pinned", "unpinned", "sample"),
    [
        (HEAD, False, False, False),
        (OPEN, True, True, True),
        (PROVED, True, True, False),
        (TRUSTED, True, False, False),
    ],
    ids=["nothing", "every request", "guests that prove something", "affirming guests"],
)
async def test_each_sample_policy_releases_to_the_expected_guests(
    broker: RunningBroker,
    tokens: AdminTokens,
    set_policy: Setting,
    policy: str,
    pinned: bool,
    unpinned: bool,
    sample: bool,
) -> None:
    await set_policy(broker, tokens, policy)
    assert await released(broker, tdx_guest(broker.platform)) is unpinned
    assert await released(broker, sample_guest()) is sample
    await pin(broker)
    assert await status(broker, tdx_guest(broker.platform)) == "affirming"
    assert await released(broker, tdx_guest(broker.platform)) is pinned
    assert await status(broker, sample_guest()) == "contraindicated"


async def test_no_release_policy_overrules_the_floor(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    await over_http(broker, tokens, OPEN)
    store(broker, "opa/tdxData", json.dumps({"rtmr1": ["ab" * 48]}).encode())
    with pytest.raises(KbsRefused, match="policy-refused"):
        await released(broker, tdx_guest(broker.platform))
    assert not broker.events.named("secret.released")


async def test_a_later_pin_does_not_change_the_status_of_a_guest(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """The token of this guest has the status `warning`, which the release policy reads."""
    await over_http(broker, tokens, TRUSTED)
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        await pin(broker)
        with pytest.raises(KbsRefused):
            await session.get(str(PATH))
    assert await released(broker, tdx_guest(broker.platform))


async def test_guests_over_rats_tls_have_a_status(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    await over_http(broker, tokens, TRUSTED)
    async with broker.guest() as guest:
        with pytest.raises(BrokerRefused, match="not released"):
            await guest.keks([KID])
    await pin(broker)
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def test_a_guest_accepted_without_a_reference_value_is_not_affirming(
    broker: RunningBroker, tokens: AdminTokens
) -> None:
    """The policy accepted this guest, but the reference data does not contain its measurement."""
    await over_http(broker, tokens, TRUSTED)
    await pin(broker)
    data = json.loads((broker.data / "opa" / "tdxData").read_text())
    store(broker, "opa/tdxData", json.dumps({**data, "rtmr1": ["ab" * 48]}).encode())
    store(broker, "opa/tdxPolicy.rego", b"package policy\nimport rego.v1\nallow := true\n")
    assert await status(broker, tdx_guest(broker.platform)) == "warning"
    assert not await released(broker, tdx_guest(broker.platform))


@pytest.mark.parametrize(
    ("query", "allowed"), [("?version=1", True), ("?version=2&version=1", True), ("", False)]
)
async def test_the_query_of_the_url_is_data(
    broker: RunningBroker, tokens: AdminTokens, query: str, allowed: bool
) -> None:
    await over_http(broker, tokens, HEAD + 'allow if data.query == {"version": "1"}\n')
    async with attested(url_of(broker), tdx_guest(broker.platform)) as session:
        token = await session.token()
    async with httpx.AsyncClient(base_url=url_of(broker)) as http:
        headers = {"Authorization": f"Bearer {token.content.reveal().decode()}"}
        answer = await http.get(f"/kbs/v0/resource/{PATH}{query}", headers=headers)
    assert answer.status_code == (200 if allowed else 403)
