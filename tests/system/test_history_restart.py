"""The history of a broker is there after a restart, also that of guests of workers."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from tests.support.broker import RunningBroker, running_broker
from tests.support.console import connect
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.simulator import SimulatedPlatform


async def accepted(broker: RunningBroker) -> list[str]:
    """Return the ids of the accepted guests, once there are some."""
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        stub = v1_grpc.AppraisalServiceStub(channel)
        while True:  # the worker delivers them, or they are loaded
            listed = await stub.ListGuests(v1.ListGuestsRequest(verdict=v1.VERDICT_ACCEPTED))
            if listed.guests:
                return [guest.id for guest in listed.guests]


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_guest_is_listed_after_a_restart(
    tmp_path: Path, platform: SimulatedPlatform, workers: int
) -> None:
    async with running_broker(tmp_path, platform, workers=workers) as broker:
        await connect(broker)
        before = await accepted(broker)
    async with running_broker(tmp_path, platform, workers=workers) as broker:
        assert await accepted(broker) == before
        assert broker.events.named("warning.storage", "warning.task") == [
            event for event in broker.events.named("warning.storage") if "0644" in str(event)
        ]
