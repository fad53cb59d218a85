"""`verdictd-py guest agent --protocol rcar`: image tools decrypt layers with the keys of a KBS.

The KBS is simulated; the agent runs in a separate process.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.broker import KID, running_broker
from tests.support.command import environment
from tests.support.keyprovider_client import LAYER, KeyProviderClient, unwrap_input, wrap_input
from tests.support.stand_in import StandIn, standing_in
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform

GCM = "keyid=kbs:///default/key/1::algorithm=A256GCM"
CTR = "keyid=kbs:///default/key/1::algorithm=A256CTR"


@pytest.fixture
def kbs() -> Iterator[StandIn]:
    with standing_in() as found:
        yield found


async def packets(tmp_path: Path, kbs: StandIn, *parameters: str) -> list[dict[str, object]]:
    """Return packets that this broker wrapped; the KBS gets its key."""
    platform = SimulatedPlatform.create(now=app.utc_now())
    async with (
        running_broker(tmp_path, platform, allow_a256ctr=True) as broker,
        KeyProviderClient.open(broker.client_api) as client,
    ):
        found = [await client.wrap(parameter) for parameter in parameters]
        kbs.secrets["default/key/1"] = (broker.data / "keys/default/key/1").read_bytes()
    return found


@asynccontextmanager
async def agent(kbs: StandIn, tmp_path: Path, *more: str) -> AsyncIterator[KeyProviderClient]:
    """Yield a client of an agent, and check its exit status afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.main", "guest", "agent"),
        *("--keyprovider", "127.0.0.1:0", "--protocol", "rcar", "--connect", kbs.url),
        *("--platform", str(tmp_path / "platform"), "--timeout", "60", *more),
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        target = (await process.stdout.readline()).decode().split()[-1]
        async with KeyProviderClient.open(target) as client:
            yield client
        process.send_signal(signal.SIGTERM)
        printed, logged = await process.communicate()
        assert (process.returncode, printed) == (0, b"")
        assert all(b" WARNING a key was not unwrapped: " in line for line in logged.splitlines())
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def test_each_layer_is_decrypted_with_new_evidence(kbs: StandIn, tmp_path: Path) -> None:
    wrapped = await packets(tmp_path, kbs, GCM, CTR)
    async with agent(kbs, tmp_path, "--allow-a256ctr") as client:
        for packet in wrapped:
            assert await client.unwrap(packet) == LAYER
    keys = [body["runtime-data"]["tee-pubkey"]["x"] for body in kbs.bodies[1::2]]
    assert len(set(keys)) == 2


async def test_a_layer_that_cannot_be_decrypted_is_reported_with_the_cause(
    kbs: StandIn, tmp_path: Path
) -> None:
    gcm, ctr, legacy = await packets(tmp_path, kbs, GCM, CTR, KID)
    async with agent(kbs, tmp_path) as client:
        status, text = await client.refusal("UnWrapKey", unwrap_input(ctr))
        assert (status, "--allow-a256ctr" in text) == ("INVALID_ARGUMENT", True)
        status, text = await client.refusal("UnWrapKey", unwrap_input(legacy))
        assert (status, "first generation" in text) == ("INVALID_ARGUMENT", True)
        assert not kbs.asked
        kbs.secrets["default/key/1"] = bytes(32)
        status, text = await client.refusal("UnWrapKey", unwrap_input(gcm))
        assert (status, "cannot decrypt the packet" in text) == ("FAILED_PRECONDITION", True)
        del kbs.secrets["default/key/1"]
        status, text = await client.refusal("UnWrapKey", unwrap_input(gcm))
        assert (status, "nothing there" in text) == ("NOT_FOUND", True)
        kbs.refusal = ("AttestationError", "refused: x")
        status, text = await client.refusal("UnWrapKey", unwrap_input(gcm))
        assert (status, "refused: x" in text) == ("PERMISSION_DENIED", True)
        status, text = await client.refusal("WrapKey", wrap_input(KID))
        assert status == "UNIMPLEMENTED"
