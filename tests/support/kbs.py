"""A broker with its HTTP listener, for tests of RCAR and of administration over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.broker import RunningBroker, running_broker
from verdictd_py import daemon as app
from verdictd_py.domain.names import ResourcePath
from verdictd_py.guest.rcar.errors import KbsRefused
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


def new_token_key(directory: Path) -> Path:
    """Write a key for `--kbs-token-key`; return its file."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = directory / "token.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


async def refusal_of(request: Awaitable[object]) -> tuple[int, str]:
    """Return the status and the type of the error with which a request is refused."""
    with pytest.raises(KbsRefused) as raised:
        await request
    return raised.value.status, raised.value.variant
