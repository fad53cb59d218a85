"""Order and number of the answers to a guest's requests."""

from __future__ import annotations

import json

from tests.support.broker import KID, RunningBroker
from tests.support.channel import encoded, store
from verdictd_py.listeners.responder import Responder

DENY_ALL = b"package policy\n\ndefault allow = false\n"


async def test_the_answer_that_ends_the_connection_is_the_last(broker: RunningBroker) -> None:
    """A caller that reads all answers finds none after it, although more requests have arrived."""
    async with broker.guest() as client:
        assert await client.version() == "v1"
        listener = broker.attested
        (guest,) = listener._guests._guests.values()
        responder = Responder(guest, listener._releaser, listener._events, listener._answering)
        store(broker, "opa/tdxPolicy.rego", DENY_ALL)
        requests = encoded({"command": "Get KEK", "kids": [KID]}) * 3
        responder.receive(requests)
        answers = []
        while (answer := await responder.next_answer()) is not None:
            answers.append(answer)
    (only,) = answers
    assert only.close
    assert json.loads(only.data)["status"] == "Fail"
