"""Connected guests of all workers, for operators.

Each worker has the guests of its own connections (`ConnectedGuests`). The operator process asks
all workers when an operator requests a list.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from verdictd_py.broker import transfer
from verdictd_py.broker.connected import ConnectedGuests, disconnected_by, status_of
from verdictd_py.broker.standing import GuestStatus
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import RequestError
from verdictd_py.ports import Events

LIST: Final = "guests.list"
CLOSE: Final = "guests.close"
"""Names of the calls that a worker answers."""

PAGE: Final = 1000
"""Maximum number of guests in a message, about 500 bytes each."""


class GuestDirectory(Protocol):
    """The connected guests of a broker, for operators."""

    async def list_guests(self, caller: Caller) -> tuple[GuestStatus, ...]:
        """Return the status of every connected guest, the first to connect first.

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
            Overloaded: a worker does not answer.
        """
        ...

    async def disconnect(self, caller: Caller, guest_id: str) -> GuestStatus:
        """Close the connection of a guest, and return its last status.

        Args:
            guest_id: id of the guest, or of its last recorded appraisal.

        Raises:
            NotAuthorized: the caller is not allowed to disconnect guests.
            NotFound: no guest with this id is connected.
            StorageError: the request cannot be recorded; the guest stays connected.
            Overloaded: a worker does not answer.
        """
        ...


class GuestsOfWorkers:
    """Port `GuestDirectory` of the operator process.

    Args:
        workers: returns the numbers of the workers that serve now.
        call: calls a worker: number, name, body; raises `Overloaded` if it does not answer.
        events: records guests that an operator disconnects.
    """

    def __init__(
        self,
        workers: Callable[[], tuple[int, ...]],
        call: Callable[[int, str, JsonValue], Awaitable[JsonValue]],
        events: Events,
    ) -> None:
        self._workers = workers
        self._call = call
        self._events = events

    async def list_guests(self, caller: Caller) -> tuple[GuestStatus, ...]:
        caller.require(Right.MANAGE)
        of_workers = await self._of_workers()
        guests = [status for statuses in of_workers.values() for status in statuses]
        return tuple(sorted(guests, key=lambda status: status.connected_at))

    async def disconnect(self, caller: Caller, guest_id: str) -> GuestStatus:
        caller.require(Right.MANAGE)
        of_workers = await self._of_workers()
        status = status_of(guest_id, tuple(one for all_ in of_workers.values() for one in all_))
        worker = next(number for number, statuses in of_workers.items() if status in statuses)
        await self._events.commit(disconnected_by(caller, status))
        await self._call(worker, CLOSE, status.id)
        return status

    async def _of_workers(self) -> dict[int, tuple[GuestStatus, ...]]:
        numbers = self._workers()
        return dict(zip(numbers, await asyncio.gather(*map(self._of, numbers)), strict=True))

    async def _of(self, worker: int) -> tuple[GuestStatus, ...]:
        statuses: list[GuestStatus] = []
        while True:
            answer = await self._call(worker, LIST, len(statuses))
            if not isinstance(answer, list):
                raise RequestError("a worker sent no list of its guests")
            statuses.extend(map(transfer.status_from_json, answer))
            if len(answer) < PAGE:
                return tuple({status.id: status for status in statuses}.values())


async def answer_list(guests: ConnectedGuests, body: JsonValue) -> JsonValue:
    """Answer `LIST` in a worker: the next guests after the first `body` ones."""
    if not isinstance(body, int):
        raise RequestError("a list of guests begins at a number")
    return [transfer.status_as_json(status) for status in guests.statuses()[body : body + PAGE]]


async def answer_close(guests: ConnectedGuests, body: JsonValue) -> JsonValue:
    """Answer `CLOSE` in a worker: close the connection of the guest with this id."""
    if not isinstance(body, str):
        raise RequestError("a guest is named by its id")
    guests.close(body)
    return None
