"""Guests of a running broker, honest or refused for their measurements."""

from __future__ import annotations

import json

from tests.support.broker import RunningBroker
from tests.support.channel import store
from verdictd_py.guest.attesters import Attester
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.simulator import TdMeasurements

HONEST = TdMeasurements().rtmr1.hex()


OTHER = "ab" * 48
JUDGED = ("guest.accepted", "guest.refused", "guest.not-judged")


async def refused_for(broker: RunningBroker, **values: list[str]) -> str:
    """A good guest is refused by reference data with these values."""
    store(broker, "opa/tdxData", json.dumps(values).encode())
    return await seen(broker)


async def seen(broker: RunningBroker, attester: Attester | None = None) -> str:
    """Return the id of a guest's appraisal: it is accepted, refused or not judged."""
    try:
        async with broker.guest(attester) as guest:
            await guest.version()
    except BrokerRefused:
        pass
    return str(broker.events.named(*JUDGED)[-1]["appraisal"])
