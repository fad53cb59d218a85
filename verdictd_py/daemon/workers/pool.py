"""The guest workers as the operator process sees them: start, watch, replace, reload, stop."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from verdictd_py.daemon.health import Check
from verdictd_py.daemon.workers.channel import Channel, ChannelFailed
from verdictd_py.daemon.workers.start import Start, spawn
from verdictd_py.domain.events import WarningWorker, WorkerStarted, WorkerStopped
from verdictd_py.domain.eventtypes import Event
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError, VerdictdError
from verdictd_py.listeners.listener import Background
from verdictd_py.ports import Events

PING_SECONDS: Final = 5.0
"""Pause between two pings of a worker."""

ANSWER_SECONDS: Final = 15.0
"""Time limit for the answer to a ping. A worker that misses two in a row is killed: its event loop
hangs. After one, it may have been this process that was suspended."""

START_SECONDS: Final = 120.0
"""Time limit for the start of a worker, on a busy machine."""

RELOAD_SECONDS: Final = 60.0
"""Time limit for a worker to read the operator's files again."""

DRAIN_SLACK_SECONDS: Final = 1.5
"""Additional time for a worker to close everything, after the time for requests in flight."""

END_SECONDS: Final = 5.0
"""Time for a process to end after its channel has been closed."""

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0
"""Pause before the replacement of a worker that ended at once; doubled each time. A worker that
ran longer than `LONGEST_PAUSE` is replaced immediately."""

WorkerHandler = Callable[[int, JsonValue], Awaitable[JsonValue]]
"""Handles a message of a worker, as `channel.Handler`; the first argument is its number."""

Spawn = Callable[[Start, Events], Awaitable[tuple[Process, Channel]]]


@dataclass(eq=False, slots=True)
class _Worker:
    """A worker's process.

    Attributes:
        problems: what it last reported, by part of the broker.
    """

    number: int
    process: Process
    channel: Channel
    began: float
    problems: dict[str, str] = field(default_factory=dict)


class Workers:
    """All guest workers of the broker.

    Args:
        count: number of workers.
        prepare: returns what the worker of this number receives at its start, with the settings
            in force.
        events: records internal errors.
        report: records an event that has happened, whether the audit trail can be written or not.
        spawn: starts the process of a worker.

    Attributes:
        changed: called when a worker has started or ended, or reports other problems.
        ended: functions that are called with the number of each worker that has ended.
    """

    name = "workers"

    def __init__(
        self,
        count: int,
        prepare: Callable[[int], Start],
        events: Events,
        report: Callable[[Event], Awaitable[None]],
        *,
        spawn: Spawn = spawn,
    ) -> None:
        self.count = count
        self.changed: Callable[[], None] = lambda: None
        self.ended: list[Callable[[int], None]] = []
        self._prepare = prepare
        self._events = events
        self._report = report
        self._spawn = spawn
        self._handlers: dict[str, WorkerHandler] = {}
        self._processes: set[_Worker] = set()
        self._serving: dict[int, _Worker] = {}
        self._reloads = 0
        self._reload_body: JsonValue = None

    @property
    def numbers(self) -> tuple[int, ...]:
        """Numbers of the workers that serve guests now."""
        return tuple(sorted(self._serving))

    def handle(self, name: str, handler: WorkerHandler) -> None:
        """Have messages of this name handled, whichever worker sends them; before the start."""
        self._handlers[name] = handler

    async def call(
        self, number: int, name: str, body: JsonValue = None, *, seconds: float = ANSWER_SECONDS
    ) -> JsonValue:
        """Call a worker.

        Raises:
            ChannelFailed: this worker does not serve, or does not answer.
            VerdictdError: see `Channel.call`.
        """
        worker = self._serving.get(number)
        if worker is None:
            raise ChannelFailed(f"guest worker {number} does not run; try again later")
        return await worker.channel.call(name, body, seconds=seconds)

    async def call_each(
        self, name: str, body: JsonValue = None, *, seconds: float = ANSWER_SECONDS
    ) -> dict[int, JsonValue | VerdictdError]:
        """Call every worker at the same time; return its answer, or its error, by number."""
        numbers = self.numbers
        answers = await asyncio.gather(
            *(self._answer(number, name, body, seconds) for number in numbers)
        )
        return dict(zip(numbers, answers, strict=True))

    def notify_each(self, name: str, body: JsonValue = None, *, but: int | None = None) -> None:
        """Notify every worker, except the worker `but`."""
        for number, worker in self._serving.items():
            if number != but:
                worker.channel.notify(name, body)

    async def start(self, background: Background) -> None:
        """Start all workers, and replace those that end from now on.

        Raises:
            ConfigError: one cannot be started; all are ended.
        """
        numbers = range(1, self.count + 1)
        started = await asyncio.gather(*map(self._launch, numbers), return_exceptions=True)
        failures = [result for result in started if isinstance(result, BaseException)]
        if failures:
            raise failures[0]
        for number in numbers:
            background(f"worker {number}", partial(self._keep, number))

    async def reload(self, body: JsonValue) -> tuple[list[str], list[str]]:
        """Have every worker read its files again; return what changed, and the problems.

        A worker that starts meanwhile reads them again, too.
        """
        self._reloads += 1
        self._reload_body = body
        changed: list[str] = []
        problems: list[str] = []
        for number, answer in (
            await self.call_each("reload", body, seconds=RELOAD_SECONDS)
        ).items():
            if isinstance(answer, VerdictdError):
                problems.append(f"guest worker {number}: {answer}")
            else:
                report = cast("dict[str, Any]", answer)
                changed += report["changed"]
                problems += report["problems"]
        return list(dict.fromkeys(changed)), list(dict.fromkeys(problems))

    async def stop(self, seconds: float) -> None:
        """Have all workers finish their requests and end; kill those that do not.

        Args:
            seconds: time limit for requests in flight.
        """
        workers = sorted(self._processes, key=lambda worker: worker.number)
        try:
            await asyncio.gather(*(self._drain(worker, seconds) for worker in workers))
        finally:
            for worker in workers:
                _kill(worker.process)

    async def problem(self) -> str:
        """Return why no guest is served; empty if one worker serves."""
        return "" if self._serving else "no guest worker runs; warning.worker has the cause"

    def problem_of(self, part: str, own: Check | None = None) -> Check:
        """Return a check of a part of the broker that reports the problems of all workers, too.

        Args:
            own: the check of this process; None if only workers have the part.
        """

        async def check() -> str:
            found = [worker.problems.get(part, "") for worker in self._serving.values()]
            problems = [await own() if own is not None else "", *found]
            return "; ".join(dict.fromkeys(filter(None, problems)))

        return check

    async def _answer(
        self, number: int, name: str, body: JsonValue, seconds: float
    ) -> JsonValue | VerdictdError:
        try:
            return await self.call(number, name, body, seconds=seconds)
        except VerdictdError as error:
            return error

    async def _launch(self, number: int) -> _Worker:
        """Start a worker; return when it serves guests.

        Raises:
            ConfigError: it cannot start.
        """
        reloads = self._reloads
        process, channel = await self._spawn(self._prepare(number), self._events)
        worker = _Worker(number, process, channel, asyncio.get_running_loop().time())
        self._processes.add(worker)
        for name, handler in self._handlers.items():
            channel.handle(name, partial(handler, number))
        try:
            file = await channel.call("start", seconds=START_SECONDS)
            while reloads != self._reloads:
                reloads = self._reloads
                await channel.call("reload", self._reload_body, seconds=RELOAD_SECONDS)
        except BaseException as error:
            channel.close()
            await self._end(worker)
            if not isinstance(error, ChannelFailed):
                raise
            raise ConfigError(
                f"guest worker {number} cannot start: {_ending(process)}; the log above has the "
                "cause, or start with --workers 1"
            ) from None
        self._serving[number] = worker
        await self._report(WorkerStarted(worker=number, pid=process.pid, file=str(file)))
        self.changed()
        return worker

    async def _keep(self, number: int) -> None:
        """Keep a worker running: start another one each time that it has ended."""
        pause = FIRST_PAUSE
        while True:
            worker = self._serving.get(number)
            began = asyncio.get_running_loop().time()
            try:
                if worker is None:
                    worker = await self._launch(number)
                reason = await self._watch(worker)
            except VerdictdError as error:
                reason = str(error)
            is_stable = worker is not None and _age(worker.began) > LONGEST_PAUSE
            if is_stable:
                pause = FIRST_PAUSE
            wait = 0.0 if is_stable else max(pause - _age(began), 0.0)
            await self._report(
                WarningWorker(worker=number, reason=reason, restarts_in_seconds=round(wait))
            )
            await asyncio.sleep(wait)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _watch(self, worker: _Worker) -> str:
        """Watch a worker until it has ended; return why."""
        ending = asyncio.ensure_future(worker.process.wait())
        missed = 0
        try:
            while not ending.done() and not worker.channel.is_closed and missed < 2:
                await asyncio.wait([ending], timeout=PING_SECONDS)
                missed = 0 if await self._ping(worker) else missed + 1
        finally:
            ending.cancel()
        if missed < 2 or worker.channel.is_closed:
            await self._end(worker)
            return _ending(worker.process)
        worker.channel.close()
        _kill(worker.process)
        await self._end(worker)
        return f"its event loop did not answer for {2 * ANSWER_SECONDS:.0f} s; it was killed"

    async def _ping(self, worker: _Worker) -> bool:
        """Return whether a worker answers, and note the problems that it reports."""
        try:
            problems = await worker.channel.call("ping", seconds=ANSWER_SECONDS)
        except ChannelFailed:
            return False
        known = cast("dict[str, str]", problems)
        if known != worker.problems:
            worker.problems = known
            self.changed()
        return True

    async def _end(self, worker: _Worker) -> None:
        """Wait until a process whose channel is closed has ended; kill it if it does not."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(END_SECONDS):
                    await worker.process.wait()
            _kill(worker.process)
            await worker.process.wait()
        finally:
            worker.channel.close()
            _kill(worker.process)
            self._processes.discard(worker)
            if self._serving.get(worker.number) is worker:
                del self._serving[worker.number]
            for ended in self.ended:
                ended(worker.number)
            self.changed()

    async def _drain(self, worker: _Worker, seconds: float) -> None:
        try:
            limit = seconds + DRAIN_SLACK_SECONDS
            state = await worker.channel.call("drain", seconds, seconds=limit)
            file, records, digest = cast("tuple[str, int, str]", state)
            event: Event = WorkerStopped(
                worker=worker.number, file=file, records=records, digest=digest
            )
        except ChannelFailed as error:
            event = WarningWorker(worker=worker.number, reason=str(error))
        await self._report(event)
        worker.channel.close()
        await self._end(worker)


def _age(began: float) -> float:
    return asyncio.get_running_loop().time() - began


def _kill(process: Process) -> None:
    with suppress(ProcessLookupError):
        process.kill()


def _ending(process: Process) -> str:
    """Describe how a process has ended."""
    status = process.returncode
    if status is None or status >= 0:
        return f"it ended with status {status}"
    try:
        return f"it was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"it was ended by signal {-status}"
