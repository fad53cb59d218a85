"""The daemon as a process: signals and exit status."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import os
import resource
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon import descriptors
from verdictd_py.daemon.composition import build_daemon
from verdictd_py.daemon.daemon import Daemon
from verdictd_py.daemon.stacks import dump_tasks
from verdictd_py.daemon.supervisor import Work
from verdictd_py.daemon.systemd import READY, STOPPING, ServiceManager
from verdictd_py.daemon.watchedfiles import WatchedFiles
from verdictd_py.domain.events import PolicyEngineCompiling
from verdictd_py.errors import ConfigError
from verdictd_py.events.log import LogEvents
from verdictd_py.events.writer import LogWriter
from verdictd_py.listeners.errors import exception_handler
from verdictd_py.listeners.kbs import load_cas
from verdictd_py.policy import instances
from verdictd_py.ports import Events

EXIT_STOPPED: Final = 0
EXIT_FAILED: Final = 1
"""Exit status after essential work has failed; the log has the reason."""

_STANDARD_ERROR: Final = 2
_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h
_SWITCH_SECONDS: Final = 0.001
_IMPORTED_LATE: Final = {
    "httpx": ("httpcore._backends.anyio", "anyio._backends._asyncio"),
    "aiohttp": ("joserfc.jwk", "joserfc.jwt"),
}
"""Modules that the first requests import, by a module without which they are not needed."""

MIN_ADDRESS_SPACE: Final = 2_000_000 * 1024
"""Bytes under `ulimit -v`. Measured: an idle daemon takes 1.0 GiB, while it compiles the policy
engine 1.2 GiB; instances of the engine may take half of the limit (`policy.compiled`)."""


async def run(
    settings: Settings,
    unsafe: Unsafe,
    *,
    reread: Callable[[], Settings] | None = None,
    on_stopping: Callable[[float], None] = lambda seconds: None,  # noqa: ARG005  # no limit
) -> int:
    """Run the daemon until SIGTERM or SIGINT, or until essential work fails. SIGHUP reloads.

    Args:
        reread: reads the settings again on SIGHUP; None for settings that do not change.
        on_stopping: called when the daemon begins to stop, with the seconds that this may take.

    Returns:
        The exit status: `EXIT_STOPPED` or `EXIT_FAILED`.

    Raises:
        ConfigError: the daemon cannot start.
    """
    require_address_space()
    descriptors.raise_limit()
    writer = LogWriter(_STANDARD_ERROR)
    try:
        return await _run(settings, unsafe, writer, reread, on_stopping)
    finally:
        writer.close()


async def _run(
    settings: Settings,
    unsafe: Unsafe,
    writer: LogWriter,
    reread: Callable[[], Settings] | None,
    on_stopping: Callable[[float], None],
) -> int:
    events = LogEvents(writer.write, settings.log_format, level=settings.log_level)
    writer.on_dropped = events.report_dropped
    stopping, reloading = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(exception_handler(events))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    _dump_when_signalled(loop, partial(dump_tasks, events))
    loop.add_signal_handler(signal.SIGHUP, reloading.set)
    manager = ServiceManager()
    manager.status("starting")
    daemon = build_daemon(settings, unsafe, events, on_failure=stopping.set, reread=reread)
    _dump_when_signalled(loop, partial(daemon.dump_tasks, events))
    daemon.watch_log(lambda: writer.queue_length)
    await _load_policy_engine(events, manager)
    daemon.report_status(manager.status)
    await daemon.start()
    favour_event_loop()
    manager.notify(READY, status=daemon.status)
    inform = partial(manager.keep_informed, lambda: daemon.status)
    daemon.supervisor.start(Work("inform the service manager", inform))
    daemon.supervisor.start(Work("reload", partial(reload_when, reloading, daemon, manager)))
    daemon.supervisor.start(Work("count floods in the log", partial(count_floods, events)))
    if settings.reload_on_change:
        watched = WatchedFiles(settings, unsafe)
        watch = partial(watched.watch, reloading.set)
        daemon.supervisor.start(Work("watch the files of the settings", watch))
    await stopping.wait()
    manager.notify(STOPPING, status="stopping: requests in flight are finished")
    on_stopping(daemon.stop_seconds)
    await daemon.stop()
    events.end_minute()
    return EXIT_FAILED if daemon.supervisor.failed else EXIT_STOPPED


def _dump_when_signalled(loop: asyncio.AbstractEventLoop, dump: Callable[[], None]) -> None:
    """Have tasks written to the log on signals that would end the process otherwise."""
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGQUIT):
        loop.add_signal_handler(number, dump)


def favour_event_loop() -> None:
    """Keep collector, threads and imports from stalling the event loop. Call it after the start.

    1. The first requests need modules that the start does not: a thread imports them now.
    2. Modules and the parts of the daemon exist until it ends, so that the collector need not
       visit them: that takes 60 ms. It has not run yet (`cli.main`), and one collection now would
       take as long: what the imports have left, 0.7 MiB, stays.
    3. A thread releases the interpreter lock after 1 ms instead of 5 ms: the loop waits for it
       after each system call.
    """
    gc.freeze()  # 2
    gc.enable()
    sys.setswitchinterval(_SWITCH_SECONDS)  # 3
    # Not a daemon thread: one that loads an extension while the interpreter ends crashes it.
    threading.Thread(target=_import_late, name="import").start()  # 1


def _import_late() -> None:
    load_cas()
    for needed_with, names in _IMPORTED_LATE.items():
        for name in names if needed_with in sys.modules else ():
            with suppress(ImportError, OSError):  # another version; no free descriptor
                importlib.import_module(name)


def require_address_space() -> None:
    """Refuse a limit under which threads or the policy engine fail later, guest by guest.

    Raises:
        ConfigError: the limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
        raise ConfigError(
            f"the limit of addresses (ulimit -v) is {limit // 1024} KiB, and the daemon needs "
            f"{MIN_ADDRESS_SPACE // 1024} KiB; raise it, or remove it with 'ulimit -v unlimited'"
        )


async def _load_policy_engine(events: Events, manager: ServiceManager) -> None:
    """Load the policy engine; record an event if it must be compiled, which takes seconds.

    Raises:
        PolicyInvalid: it cannot be loaded; the message names the cause.
    """
    loop = asyncio.get_running_loop()

    def compiling(reason: str) -> None:  # called in the thread
        loop.call_soon_threadsafe(events.record, PolicyEngineCompiling(reason=reason))
        loop.call_soon_threadsafe(manager.status, f"starting: {reason}")

    await asyncio.to_thread(instances.prepare, compiling)


def end_within(seconds: float) -> None:
    """End the process after so many seconds, whatever still runs then.

    Threads that wait for a disk cannot be cancelled, and Python waits for them. A service manager
    would kill the process later, and docker does so after 10 seconds.
    """

    def end() -> None:
        time.sleep(seconds)
        os._exit(EXIT_FAILED)

    threading.Thread(target=end, name="end", daemon=True).start()


def end_with_parent(seconds: float) -> None:
    """End the process so many seconds after its parent has ended, even if the event loop hangs.

    A guest worker would otherwise hold the sockets, and a new daemon could not bind them. A
    stopped process (SIGSTOP) runs no thread: the kernel continues it when the parent ends.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT, 0, 0, 0)
    try:
        parent = os.pidfd_open(os.getppid())
    except OSError:  # a sandbox may forbid it; an event loop that runs notices the end as well
        return

    def end() -> None:
        poll = select.poll()
        poll.register(parent, select.POLLIN)
        poll.poll()
        time.sleep(seconds)
        os._exit(EXIT_FAILED)

    threading.Thread(target=end, name="parent", daemon=True).start()


async def count_floods(log: LogEvents) -> None:
    """Write the floods of each minute to the log."""
    while True:
        await asyncio.sleep(60)
        log.end_minute()


async def reload_when(requested: asyncio.Event, daemon: Daemon, manager: ServiceManager) -> None:
    """Reload the daemon each time that `requested` is set."""
    while True:
        await requested.wait()
        requested.clear()
        manager.reloading()
        try:
            await daemon.reload()
        finally:
            manager.notify(READY, status=daemon.status)
