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
from verdictd_py.errors import NotFound, Overloaded, RequestError, VerdictdError
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
            Overloaded: a worker does not answer, and no other one has the guest.
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
        of_workers = await asyncio.gather(*map(self._of, self._workers()))
        guests = [status for statuses in of_workers for status in statuses]
        return tuple(sorted(guests, key=lambda status: status.connected_at))

    async def disconnect(self, caller: Caller, guest_id: str) -> GuestStatus:
        caller.require(Right.MANAGE)
        worker, status = await self._find(guest_id)
        await self._events.commit(disconnected_by(caller, status))
        await self._call(worker, CLOSE, status.id)
        return status

    async def _find(self, guest_id: str) -> tuple[int, GuestStatus]:
        """Return the worker of a guest, and its status, as soon as that worker has answered.

        A worker that hangs must not delay the disconnection of another worker's guest.

        Raises:
            NotFound: all workers have answered; no guest with this id is connected.
            Overloaded: no guest with this id is known, and a worker does not answer.
        """
        searches = [asyncio.ensure_future(self._search(n, guest_id)) for n in self._workers()]
        try:
            failures: list[VerdictdError] = []
            for search in asyncio.as_completed(searches):
                found = await search
                if not isinstance(found, VerdictdError):
                    return found
                failures.append(found)
        finally:
            for search in searches:
                search.cancel()
        for failure in failures:
            if isinstance(failure, Overloaded):
                raise failure
        return 0, status_of(guest_id, ())

    async def _search(
        self, worker: int, guest_id: str
    ) -> tuple[int, GuestStatus] | NotFound | Overloaded:
        try:
            return worker, status_of(guest_id, await self._of(worker))
        except (NotFound, Overloaded) as error:
            return error

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
