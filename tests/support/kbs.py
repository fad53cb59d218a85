"""A broker with its HTTP listener, for tests of RCAR and of administration over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.support.broker import RunningBroker, running_broker
from verdictd_py import daemon as app
from verdictd_py.domain.names import ResourcePath
from verdictd_py.simulator import SimulatedPlatform

PATH = ResourcePath.parse("default/key/1")
SECRET = b"\x00\xff a secret of 40 bytes, binary as well"
POLICY = ResourcePath.parse("default/security-policy/test")


@asynccontextmanager
async def running_kbs(
    directory: Path, platform: SimulatedPlatform | None = None, **settings: Any
) -> AsyncIterator[RunningBroker]:
    """Start a broker on loopback with an HTTP listener and one resource."""
    platform = platform or SimulatedPlatform.create(now=app.utc_now())
    resource = directory / "data" / "resources" / "default" / "key" / "1"
    resource.parent.mkdir(mode=0o700, parents=True)
    resource.write_bytes(SECRET)
    more = {"kbs_http": "127.0.0.1:0", **settings}
    async with running_broker(directory, platform, **more) as broker:
        yield broker


def url_of(broker: RunningBroker) -> str:
    """Where its guests connect to."""
    return broker.kbs.endpoint
