"""Lifecycle of the daemon: it binds, starts and stops all listeners."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import socket
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import KID, RunningBroker, running_broker
from tests.support.clock import elapse_until, until
from tests.support.events import RecordedEvents
from tests.support.kbs import running_kbs
from verdictd_py import daemon as app
from verdictd_py.config import Address, Settings, Unsafe
from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.process import EXIT_FAILED, reload_when
from verdictd_py.daemon.readiness import Standing
from verdictd_py.daemon.supervisor import Supervisor, Work
from verdictd_py.daemon.systemd import ServiceManager
from verdictd_py.domain.events import WarningOtherDaemon
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.listeners import sockets
from verdictd_py.listeners.kbs import connections
from verdictd_py.listeners.kbs.connections import Acceptor
from verdictd_py.listeners.listener import Background, Listener
from verdictd_py.simulator import SimulatedPlatform

pytestmark = pytest.mark.broker(kbs_http="127.0.0.1:0")


class Spy:
    """Listener that records what the daemon does with it, and may wrap another one."""

    def __init__(self, name: str, calls: list[str], inner: Listener | None = None) -> None:
        self.name = name
        self.inner = inner
        self.calls = calls
        self.address = Address("127.0.0.1", 1)
        self.endpoint = f"spy://{name}"
        self.on_stop: Callable[[], Any] | None = None

    def bind(self) -> None:
        self.calls.append("bind")
        if self.inner is not None:
            self.inner.bind()

    async def start(self, background: Background) -> None:
        self.calls.append("start")
        if self.inner is not None:
            await self.inner.start(background)

    async def stop(self, seconds: float) -> None:
        self.calls.append("stop")
        if self.on_stop is not None:
            await self.on_stop()
        if self.inner is not None:
            await self.inner.stop(seconds)


def settings_for(directory: Path, **more: Any) -> Settings:
    chosen = {
        "listen": "127.0.0.1:0",
        "client_api": "127.0.0.1:0",
        "keyprovider_api": "127.0.0.1:0",
        "kbs_http": "127.0.0.1:0",
        "data_dir": directory / "data",
        "collateral_url": (),
        **more,
    }
    return Settings(**chosen)


def spied(daemon: app.Daemon, calls: list[str]) -> tuple[app.Daemon, tuple[Spy, ...]]:
    """Return the daemon with a spy around each listener, and an additional listener."""
    spies = tuple(Spy(listener.name, calls, listener) for listener in daemon.listeners)
    spies = (*spies, Spy("another", calls))
    daemon._parts.about.listeners = spies
    return app.Daemon(replace(daemon._parts, listeners=spies)), spies


async def test_every_address_is_bound_before_any_listener_accepts(tmp_path: Path) -> None:
    calls: list[str] = []
    events = RecordedEvents()
    built = app.build_daemon(settings_for(tmp_path), Unsafe(), events)
    daemon, spies = spied(built, calls)
    await daemon.start()
    try:
        assert calls == ["bind"] * 5 + ["start"] * 5
        # A listener that only the parts know is announced like the others.
        announced = {str(one["name"]): one["endpoint"] for one in events.named("listener.started")}
        assert announced == {spy.name: spy.endpoint for spy in spies}
    finally:
        await daemon.stop()
    assert calls[-5:] == ["stop"] * 5


async def test_listeners_stop_at_the_same_time(tmp_path: Path) -> None:
    """Each listener waits until all others have begun to stop."""
    daemon, spies = spied(
        app.build_daemon(settings_for(tmp_path, drain_timeout=60), Unsafe(), RecordedEvents()), []
    )
    barrier = asyncio.Barrier(len(spies))
    for spy in spies:
        spy.on_stop = barrier.wait
    await daemon.start()
    await daemon.stop()


async def test_a_listener_that_fails_to_stop_does_not_affect_the_others(tmp_path: Path) -> None:
    events = RecordedEvents()
    daemon, spies = spied(app.build_daemon(settings_for(tmp_path), Unsafe(), events), [])

    async def broken() -> None:
        raise RuntimeError("secret")

    spies[0].on_stop = broken
    await daemon.start()
    await daemon.stop()
    assert [bug["doing"] for bug in events.named("warning.bug")] == ["stop listen"]
    for spy in spies[1:4]:
        sockets.bind(spy.inner.address, option="").close()  # type: ignore[union-attr]  # not the last
    assert events.named("daemon.stopped")
    assert events.named("audit.closed")
    assert spies[0].inner is not None
    await spies[0].inner.stop(0)


class TestAddressThatIsTaken:
    @pytest.fixture
    def free(self) -> dict[str, str]:
        """Addresses that were free a moment ago."""
        names = ("listen", "client_api", "keyprovider_api", "kbs_http")
        held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
        found = {
            name: f"127.0.0.1:{one.getsockname()[1]}" for name, one in zip(names, held, strict=True)
        }
        for one in held:
            one.close()
        return found

    @pytest.mark.parametrize("name", ["listen", "client_api", "keyprovider_api", "kbs_http"])
    async def test_every_other_address_is_released(
        self, tmp_path: Path, free: dict[str, str], name: str
    ) -> None:
        """They are released while the object of the failed daemon still exists."""
        address = Address.parse(free[name])
        daemon = app.build_daemon(settings_for(tmp_path, **free), Unsafe(), RecordedEvents())
        with (
            socket.create_server((address.host, address.port)),
            pytest.raises(ConfigError, match="the address is in use; stop the program"),
        ):
            await daemon.start()
        for text in free.values():
            sockets.bind(Address.parse(text), option="").close()
        assert len(daemon.listeners) == 4

    async def test_a_unix_socket_is_removed(self, tmp_path: Path, free: dict[str, str]) -> None:
        path = tmp_path / "api"
        chosen = {**free, "client_api": f"unix:{path}"}
        daemon = app.build_daemon(settings_for(tmp_path, **chosen), Unsafe(), RecordedEvents())
        taken = Address.parse(free["kbs_http"])
        with socket.create_server((taken.host, taken.port)), pytest.raises(ConfigError):
            await daemon.start()
        assert not path.exists()


async def test_an_audit_trail_that_cannot_be_opened_releases_every_address(tmp_path: Path) -> None:
    daemon = app.build_daemon(settings_for(tmp_path), Unsafe(), RecordedEvents())
    (tmp_path / "data" / "audit").rmdir()
    with pytest.raises(ConfigError, match="audit trail"):
        await daemon.start()
    for listener in daemon.listeners:
        sockets.bind(listener.address, option="").close()


class TestLoopsThatFail:
    """Loops that used to end at their first exception, silently and permanently."""

    async def test_the_check_of_readiness_continues(
        self, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        readiness, events = broker.daemon._parts.readiness, RecordedEvents()
        refreshed, failures = asyncio.Event(), [RuntimeError("secret")]
        refresh = readiness.refresh

        async def failing_once() -> Standing:
            if failures:
                raise failures.pop()
            refreshed.set()
            return await refresh()

        monkeypatch.setattr(readiness, "refresh", failing_once)
        work = next(w for w in broker.daemon._parts.background if w.name == "check readiness")
        await self._goes_on(work, refreshed, events)
        assert events.named("warning.task")[0]["task"] == "check readiness"

    async def test_the_renewal_of_collateral_continues(self, tmp_path: Path) -> None:
        """Listing the store fails once, as it can on a network file system."""
        events, listed = RecordedEvents(), asyncio.Event()
        failures = [StorageError("the directory cannot be read")]

        class Store:
            async def names(self) -> tuple[str, ...]:
                if failures:
                    raise failures.pop()
                listed.set()
                return ()

            async def load(self, name: str) -> bytes | None:
                return None

            async def save(self, name: str, content: bytes) -> None:
                del content

            async def states(self, names: Sequence[str]) -> tuple[Hashable, ...]:
                return tuple(names)

            async def update(
                self, name: str, change: Callable[[bytes | None], bytes | None]
            ) -> None:
                change(None)

        settings = settings_for(tmp_path, collateral_url="https://127.0.0.1:9")
        service = CollateralService(
            settings, Store(), clock=app.utc_now, events=events, root_ca_der=None
        )
        (work,) = service.background
        await self._goes_on(work, listed, events)
        assert events.named("warning.task") == []  # reported as `storage.fault`
        await service.close()

    async def test_the_reload_continues(
        self, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A SIGHUP whose reload fails is recorded; the daemon serves, and the next one works."""
        requested, reloaded = asyncio.Event(), asyncio.Event()
        failures = [RuntimeError("secret")]
        events = RecordedEvents()

        refresh = broker.daemon._parts.readiness.refresh

        async def failing_once() -> Standing:
            if failures:
                requested.set()  # the next SIGHUP
                raise failures.pop()
            reloaded.set()
            return await refresh()

        monkeypatch.setattr(broker.daemon._parts.readiness, "refresh", failing_once)

        async def run() -> None:
            await reload_when(requested, broker.daemon, ServiceManager({}))

        requested.set()
        await self._goes_on(Work("reload", run), reloaded, events)
        assert events.named("warning.task")[0]["task"] == "reload"
        async with broker.guest() as guest:
            assert await guest.version() == "v1"

    async def test_a_connection_that_cannot_be_accepted_does_not_end_accepting(
        self, broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(self: object, *_: object) -> None:
            raise RuntimeError("secret")

        with monkeypatch.context() as patch:
            patch.setattr(Acceptor, "_take", broken)
            with socket.create_connection((broker.kbs.address.host, broker.kbs.address.port)):
                await until(lambda: broker.events.named("warning.bug"))
        reader, writer = await asyncio.open_connection(
            broker.kbs.address.host, broker.kbs.address.port
        )
        writer.write(b"GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()
        await writer.wait_closed()
        assert "secret" not in broker.events.text

    async def _goes_on(self, work: Work, done: asyncio.Event, events: RecordedEvents) -> None:
        async def at_once(seconds: float) -> None:
            await asyncio.sleep(0)

        supervisor = Supervisor(events, sleep=at_once)
        supervisor.start(work)
        await elapse_until(done.is_set)
        await supervisor.stop()
        assert "secret" not in events.text


async def test_a_socket_that_can_no_longer_accept_ends_the_daemon(broker: RunningBroker) -> None:
    """Otherwise the daemon would run without serving HTTP guests."""
    listening = broker.kbs._listening
    assert listening is not None
    listening.shutdown(socket.SHUT_RDWR)
    await until(lambda: broker.daemon.supervisor.failed)
    (task,) = broker.events.named("warning.task")
    assert (task["task"], task["error"]) == ("kbs_http.accept", "OSError")
    assert task["restarts_in_seconds"] is None


async def test_essential_work_that_fails_is_the_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(connections, "accept", broken)
    status = await app.run(settings_for(tmp_path, log_format="json"), Unsafe())
    assert status == EXIT_FAILED
    logged = capfd.readouterr().err
    assert '"warning.task"' in logged
    assert '"daemon.stopped"' in logged
    assert "secret" not in logged


async def test_an_internal_error_before_the_handshake_ends_that_connection_only(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TLS settings that cannot be built are reported, and the next guest is served."""

    def broken() -> None:
        raise RuntimeError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(broker.attested, "_context", broken)
        with pytest.raises((BrokerRefused, OSError)):
            async with broker.guest():
                pass
    assert broker.events.named("warning.bug")
    assert "secret" not in broker.events.text
    async with broker.guest() as guest:
        assert await guest.version() == "v1"


async def test_a_second_daemon_on_the_directory_is_reported_by_both(
    broker: RunningBroker, tmp_path: Path, platform: SimulatedPlatform
) -> None:
    """It is not refused. The status of each daemon has the other one, as long as it runs."""

    async def reported(daemon: RunningBroker) -> int:
        status = await daemon.daemon._parts.about.status()
        return sum("another daemon uses this data directory" in text for text in status.warnings)

    assert broker.events.of(WarningOtherDaemon) == []
    assert await reported(broker) == 0
    async with running_broker(tmp_path, platform) as second:
        await until(lambda: second.events.of(WarningOtherDaemon))
        (event,) = second.events.of(WarningOtherDaemon)
        assert event.pid == os.getpid()
        assert [await reported(broker), await reported(second)] == [1, 1]
    assert await reported(broker) == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_stopped_daemon_leaves_no_descriptor_to_the_garbage_collector(
    tmp_path: Path, platform: SimulatedPlatform, workers: int
) -> None:
    settings = {"status": "127.0.0.1:0", "console": "127.0.0.1:0", "workers": workers}
    for name in ("warm up", "measured"):  # libraries open some files once
        opened = descriptors()
        (tmp_path / name).mkdir()
        gc.disable()
        try:
            async with (
                running_kbs(tmp_path / name, platform, **settings) as broker,
                broker.guest() as guest,
            ):
                await guest.keks([KID])
            del broker, guest
            left = descriptors() - opened
        finally:
            gc.enable()
    assert not left


def descriptors() -> Counter[str]:
    """What the descriptors of this process lead to, without their own numbers.

    Memory that processes share is not counted: a mapping has a descriptor of its own
    (`mmap.mmap`), and ends with the last object that uses it.
    """
    names = Counter[str]()
    for each in os.listdir("/proc/self/fd"):  # noqa: PTH208  # entries vanish
        with suppress(OSError):
            names[re.sub(r":\[\d+\]", "", str(Path(f"/proc/self/fd/{each}").readlink()))] += 1
    return Counter({name: names[name] for name in names if not name.startswith("/memfd:")})
