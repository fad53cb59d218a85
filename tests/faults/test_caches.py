"""The next decision of a broker uses what another broker on its directory has changed."""

from __future__ import annotations

import pytest

from tests.faults.another import another
from tests.faults.changes import ADMIN
from tests.support.broker import KEY, KID, RunningBroker
from tests.support.memory import accepted_peer
from verdictd_py.broker.judgement import Verdict
from verdictd_py.broker.requests import GuestRequests
from verdictd_py.domain.names import ResourcePath
from verdictd_py.errors import NotAuthorized, NotFound
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.protocols.eaa import messages
from verdictd_py.protocols.eaa.answers import Resource, ResourceInfo

DENY, ALLOW = (b"package policy\n\ndefault allow = %s\n" % word for word in (b"false", b"true"))
OTHER = "cd" * 48


async def accepted(broker: RunningBroker) -> bool:
    try:
        async with broker.guest() as guest:
            return await guest.version() == "v1"
    except BrokerRefused:
        return False


async def test_an_appraisal_policy(broker: RunningBroker) -> None:
    for policy, expected in ((DENY, False), (ALLOW, True), (DENY, False)):
        await another(broker.data, "policy", "tdxPolicy.rego", policy)
        assert await accepted(broker) is expected


async def test_reference_data(broker: RunningBroker) -> None:
    assert await accepted(broker)
    await another(broker.data, "data", "tdxData", b'{"rtmr1": ["%s"]}' % OTHER.encode())
    assert not await accepted(broker)


async def test_a_set(broker: RunningBroker) -> None:
    """The guest's value is in the set that another broker retires."""
    async with broker.guest() as guest:
        await guest.version()
    cases = broker.daemon._parts.readiness._use_cases
    (judgement,) = cases.history.last(ADMIN, Verdict.ACCEPTED, 0)
    measured = str(judgement.claims["rtmr1"])
    sets = cases.administration.sets
    await sets.add(ADMIN, "tdx", "other", {"rtmr1": [OTHER]}, "")
    assert not await accepted(broker)
    await sets.add(ADMIN, "tdx", "own", {"rtmr1": [measured]}, "")
    assert await accepted(broker)
    await another(broker.data, "retire", "own")
    assert not await accepted(broker)


async def test_a_release_policy_while_a_guest_is_connected(broker: RunningBroker) -> None:
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
        await another(broker.data, "policy", "releasePolicy.rego", DENY)
        with pytest.raises(BrokerRefused, match="not released"):
            await guest.keks([KID])
        await another(broker.data, "policy", "releasePolicy.rego", ALLOW)
        assert (await guest.keks([KID]))[KID].reveal() == KEY


async def test_keys_and_resources_while_a_guest_is_connected(broker: RunningBroker) -> None:
    path = "default/some/thing"
    async with broker.guest() as guest:
        with pytest.raises(BrokerRefused):
            await guest.keks(["another"])
        await another(broker.data, "create", "another")
        assert len((await guest.keks(["another"]))["another"]) == len(KEY)
        await another(broker.data, "delete", "another")
        with pytest.raises(BrokerRefused):
            await guest.keks(["another"])
        for content in (b"one", b"two"):
            await another(broker.data, "resource", path, content)
            assert (await guest.resource(path)).reveal() == content


async def test_the_policy_decides_when_an_announced_resource_is_released(
    broker: RunningBroker,
) -> None:
    """A guest requests the size of a resource first; the content is that of this moment."""
    path = ResourcePath.parse("default/some/thing")
    cases = broker.daemon._parts.readiness._use_cases
    guest, peer = GuestRequests(cases.releaser), accepted_peer()
    info, get = messages.GetResourceInfo(path), messages.GetResource(path)
    await another(broker.data, "resource", str(path), b"one")
    assert await guest.fulfil(peer, info) == ResourceInfo(3)
    await another(broker.data, "resource", str(path), b"longer")
    answer = await guest.fulfil(peer, get)
    assert isinstance(answer, Resource)
    assert answer.content.reveal() == b"one"
    await guest.fulfil(peer, info)
    await another(broker.data, "policy", "releasePolicy.rego", DENY)
    with pytest.raises(NotAuthorized):
        await guest.fulfil(peer, get)
    await another(broker.data, "policy", "releasePolicy.rego", ALLOW)
    await guest.fulfil(peer, info)
    (broker.data / "resources" / str(path)).unlink()
    with pytest.raises(NotFound):
        await guest.fulfil(peer, get)
