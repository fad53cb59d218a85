"""What the workers of one broker share: limits, sessions, history, the list of connected guests.

The operator process has an `OperatorShare`, each worker a `WorkerShare`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from typing import Final, Self

from verdictd_py.broker import everyguest
from verdictd_py.broker.connected import ConnectedGuests
from verdictd_py.broker.everyguest import GuestsOfWorkers
from verdictd_py.broker.history import History
from verdictd_py.broker.transfer import Inbox, Outbox
from verdictd_py.config import Settings
from verdictd_py.daemon.supervisor import Work
from verdictd_py.daemon.workers.channel import Channel
from verdictd_py.daemon.workers.pool import Workers
from verdictd_py.daemon.workers.start import Start
from verdictd_py.encoding import JsonValue
from verdictd_py.listeners.census import Census
from verdictd_py.ports import Events
from verdictd_py.storage import sharedsessions
from verdictd_py.storage.sharedsessions import SharedSessionStore

_CENSUS: Final = "census.{}"
_SESSIONS: Final = "sessions"
_JUDGEMENTS: Final = "judgements"


class OperatorShare:
    """The share of the operator process, which serves no guests.

    Attributes:
        descriptors: descriptors that each worker inherits, by name.
    """

    def __init__(self, count: int, settings: Settings) -> None:
        self._census = Census.create(count)
        self.descriptors = {
            _CENSUS.format(number): descriptor
            for number, descriptor in enumerate(self._census.descriptors)
        }
        self._sessions: int | None = None
        if settings.kbs_http is not None and settings.kbs_sessions is None:
            self._sessions = self.descriptors[_SESSIONS] = sharedsessions.create(count)

    def connect(self, workers: Workers, history: History, events: Events) -> GuestsOfWorkers:
        """Receive the judgements of workers; return the connected guests of all of them."""
        inbox = Inbox(history)

        async def receive(number: int, body: JsonValue) -> JsonValue:
            inbox.receive(number, body)
            return None

        def clear(number: int) -> None:
            self._census.clear(number - 1)

        workers.handle(_JUDGEMENTS, receive)
        workers.ended.append(clear)
        return GuestsOfWorkers(lambda: workers.numbers, workers.call, events)

    def states(self, listener: str) -> dict[str, int]:
        """Return the numbers of connections of a listener by what they have proven."""
        return self._census.states(listener)

    async def close(self) -> None:
        """Close the memory; the workers have ended."""
        self._census.close()
        if self._sessions is not None:
            os.close(self._sessions)


class WorkerShare:
    """The share of a worker.

    Attributes:
        census: counters of the connections of all workers.
        sessions: sessions of all workers; None if the settings name a file, or without HTTP.
        judgements: judgements on their way to the operator process.
    """

    def __init__(self, descriptors: Mapping[str, int], number: int, channel: Channel) -> None:
        names = (name for name in map(_CENSUS.format, range(len(descriptors))))
        self.census = Census(
            tuple(descriptors[name] for name in names if name in descriptors), number - 1
        )
        self.sessions: SharedSessionStore | None = None
        if _SESSIONS in descriptors:
            self.sessions = SharedSessionStore(descriptors[_SESSIONS], number - 1)
        self.judgements = Outbox()
        self._channel = channel

    @classmethod
    def of(cls, start: Start, channel: Channel) -> Self:
        """Return the share of the worker that was started so."""
        return cls(start.descriptors, start.number, channel)

    @property
    def background(self) -> tuple[Work, ...]:
        """Work that runs while the worker runs."""
        send = partial(self._channel.call, _JUDGEMENTS)
        return (Work("report judgements", partial(self.judgements.deliver, send)),)

    def connect(self, guests: ConnectedGuests) -> None:
        """Answer what the operator process asks about the connected guests of this worker."""
        self._channel.handle(everyguest.LIST, partial(everyguest.answer_list, guests))
        self._channel.handle(everyguest.CLOSE, partial(everyguest.answer_close, guests))
