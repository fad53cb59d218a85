"""Connected guests of all workers, as the operator process lists and disconnects them."""

from __future__ import annotations

import asyncio
import json
from functools import partial

import pytest

from tests.broker.test_connected import OPERATOR, Place
from tests.support.events import RecordedEvents
from verdictd_py.broker import everyguest
from verdictd_py.broker.everyguest import CLOSE, LIST, GuestsOfWorkers
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.eventtypes import Event
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import NotAuthorized, NotFound, Overloaded, RequestError, StorageError


class FullDisk(RecordedEvents):
    """Events of a broker whose audit trail cannot be written."""

    async def commit(self, *events: Event) -> None:
        raise StorageError("the disk is full")


class Broker:
    """Two workers with guests, and the operator process."""

    def __init__(self) -> None:
        self.places = {1: Place(), 2: Place()}
        self.serving: tuple[int, ...] = (1, 2)
        self.events = RecordedEvents()
        self.guests = GuestsOfWorkers(lambda: self.serving, self.call, self.events)

    async def call(self, number: int, name: str, body: JsonValue) -> JsonValue:
        if number not in self.places:
            raise Overloaded("a worker has ended")
        guests = self.places[number].guests
        answer = {
            LIST: partial(everyguest.answer_list, guests),
            CLOSE: partial(everyguest.answer_close, guests),
        }[name]
        received: JsonValue = json.loads(json.dumps(await answer(json.loads(json.dumps(body)))))
        return received


async def test_the_guests_of_all_workers_are_listed_in_the_order_in_which_they_connected() -> None:
    broker = Broker()
    for number in (1, 2, 1, 2):
        place = broker.places[number]
        place.now = max(each.now for each in broker.places.values()).replace(second=0)
        place.now = place.now.replace(minute=place.now.minute + 1)
        await place.connected()
    listed = await broker.guests.list_guests(OPERATOR)
    of_workers = [status for place in broker.places.values() for status in place.guests.statuses()]
    assert list(listed) == sorted(of_workers, key=lambda status: status.connected_at)
    assert len({status.id for status in listed}) == 4


async def test_many_guests_are_listed_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(everyguest, "PAGE", 2)
    broker = Broker()
    for number in range(4):
        await broker.places[1].connected(address=f"a:{number}")
    await broker.places[2].connected()
    assert len(await broker.guests.list_guests(OPERATOR)) == 5


@pytest.mark.parametrize("worker", [1, 2])
async def test_an_operator_disconnects_a_guest_of_any_worker(worker: int) -> None:
    broker = Broker()
    for place in broker.places.values():
        await place.connected(address="other:1")
    guest = await broker.places[worker].connected()
    status = await broker.guests.disconnect(OPERATOR, guest.id)
    assert status.id == guest.id
    assert broker.places[worker].closed == ["a:1"]
    (event,) = broker.events.named("guest.disconnected")
    assert (event["caller"], event["peer"], event["guest"]) == ("operator", "a:1", guest.id)
    assert not any(place.events.named("guest.disconnected") for place in broker.places.values())
    with pytest.raises(NotFound):
        await broker.guests.disconnect(OPERATOR, guest.id)


async def test_a_guest_whose_disconnection_cannot_be_recorded_stays_connected() -> None:
    broker = Broker()
    guest = await broker.places[2].connected()
    broker.guests._events = FullDisk()
    with pytest.raises(StorageError):
        await broker.guests.disconnect(OPERATOR, guest.id)
    assert broker.places[2].closed == []


async def test_callers_without_the_right_are_denied() -> None:
    broker = Broker()
    guest = await broker.places[1].connected()
    caller = Caller("farm", ROLES["wrap"])
    with pytest.raises(NotAuthorized):
        await broker.guests.list_guests(caller)
    with pytest.raises(NotAuthorized):
        await broker.guests.disconnect(caller, guest.id)


async def test_a_worker_that_does_not_answer_is_an_error() -> None:
    """A list without its guests would be wrong, and the operator could not know."""
    broker = Broker()
    await broker.places[1].connected()
    del broker.places[2]
    with pytest.raises(Overloaded):
        await broker.guests.list_guests(OPERATOR)
    broker.serving = (1,)
    assert len(await broker.guests.list_guests(OPERATOR)) == 1


async def test_a_worker_that_hangs_delays_no_disconnection_of_the_guests_of_others() -> None:
    broker = Broker()
    guest = await broker.places[2].connected()
    answers = broker.call
    released = asyncio.Event()

    async def call(number: int, name: str, body: JsonValue) -> JsonValue:
        if number == 1:
            await released.wait()
            raise Overloaded("worker 1 does not answer")
        return await answers(number, name, body)

    broker.guests._call = call
    assert (await broker.guests.disconnect(OPERATOR, guest.id)).id == guest.id
    assert broker.places[2].closed == ["a:1"]
    released.set()
    with pytest.raises(Overloaded):  # its guests are unknown: it could be one of them
        await broker.guests.disconnect(OPERATOR, "unknown")


@pytest.mark.parametrize("body", [None, "a", {}])
async def test_other_messages_are_refused(body: JsonValue) -> None:
    broker = Broker()
    with pytest.raises(RequestError):
        await everyguest.answer_list(broker.places[1].guests, body)
    if not isinstance(body, str):
        with pytest.raises(RequestError):
            await everyguest.answer_close(broker.places[1].guests, body)
