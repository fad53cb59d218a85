"""Settings of every test: no setting of the caller's environment, and Hypothesis profiles."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.support.broker import RunningBroker, running_broker
from tests.support.clock import SteppedLoop
from tests.support.command import OUR_VARIABLES
from tests.support.examples import load_profile
from tests.support.kbs import running_kbs
from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform

pytest_plugins = ["tests.support.engines"]
load_profile()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every asynchronous test on a loop whose clock it can move."""
    return {"stepped": SteppedLoop}


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove every variable of these programs: it would change what is tested."""
    for name in tuple(os.environ):
        if name.startswith(OUR_VARIABLES):
            monkeypatch.delenv(name)


@pytest.fixture
def platform() -> SimulatedPlatform:
    """The platform that the broker trusts."""
    return SimulatedPlatform.create(now=app.utc_now())


@pytest.fixture
def broker_settings() -> dict[str, Any]:
    """More settings of `broker`. A module overrides this for settings made by other fixtures."""
    return {}


@pytest_asyncio.fixture
async def broker(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    platform: SimulatedPlatform,
    broker_settings: dict[str, Any],
) -> AsyncIterator[RunningBroker]:
    """A broker on loopback that trusts `platform`.

    `@pytest.mark.broker(...)` gives it more settings (fields of `Settings`), and:

    * `kbs=True`: its HTTP listener runs, with a resource (see `tests.support.kbs.running_kbs`).
    * `unsafe`: more fields of `Unsafe`.
    * `check`: an asynchronous function that is called with the broker after the test.
    """
    mark = request.node.get_closest_marker("broker")
    chosen: dict[str, Any] = {**(mark.kwargs if mark else {}), **broker_settings}
    check = chosen.pop("check", None)
    start = running_kbs if chosen.pop("kbs", False) else running_broker
    async with start(tmp_path, platform, **chosen) as running:
        yield running
        if check is not None:
            await check(running)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT ends programs that the test starts, also where this process was told to ignore it.

    Programs inherit an ignored signal (from nohup, from a shell's background job), and Python
    then raises no KeyboardInterrupt.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
