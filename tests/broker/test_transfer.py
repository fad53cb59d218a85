"""Judgements and status on their way from a worker to the operator process."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from datetime import timedelta

import pytest

from tests.broker.test_history import OPERATOR, RTMR1, appraisal, judged, policy_refused
from tests.support.clock import elapse, elapse_until
from tests.support.memory import NOW
from verdictd_py.broker import transfer
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.broker.standing import GuestStatus, Standing
from verdictd_py.broker.transfer import BATCH, Inbox, Outbox
from verdictd_py.broker.uses import Use
from verdictd_py.domain.appraisal import DecidedBy
from verdictd_py.domain.tcb import TcbComparison, TcbComponent
from verdictd_py.domain.trust import UNTRUSTED
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Overloaded, QuoteInvalid, Reason, ReasonKind, RequestError

JUDGEMENT = Judgement(
    id="id",
    at=NOW,
    address="192.0.2.1:5",
    verdict=Verdict.REFUSED,
    code="policy",
    tee="tdx",
    form="rats-tls tag 60000",
    tcb_status="UpToDate",
    advisory_ids=("INTEL-SA-1",),
    claims={"mrTd": "ab", "list": [1, None, {"a": True}]},
    withheld=("eventLog",),
    evidence="00" * 32,
    reasons=tuple(Reason("rule", "measured", "expected", "text", kind=kind) for kind in ReasonKind),
    measurements=("mrTd",),
    not_pinnable="a reason",
    policy_skipped=True,
    judged=False,
    platform="platform",
    times=3,
    first_at=NOW - timedelta(minutes=1),
    earlier=("a", "b"),
    quote=b"quote",
    event_log=b"log",
    decided_by=DecidedBy("aa", "bb"),
    collateral="cc",
    trust={"hardware": 2},
    tcb=TcbComparison(
        "OutOfDate", "2024", "UpToDate", "2025", (TcbComponent("PCE", 1, None, 3, elsewhere=True),)
    ),
)
STATUS = GuestStatus(
    id="id",
    address="192.0.2.1:5",
    tee="tdx",
    connected_at=NOW,
    appraisal="other",
    appraised_at=NOW + timedelta(seconds=1.5),
    standing=Standing.NOT_APPRAISED,
    code="timeout",
    reasons=("a reason", "é"),
)


def sent(value: JsonValue) -> JsonValue:
    """Return a value as the other process receives it."""
    received: JsonValue = json.loads(json.dumps(value))
    return received


def differs_from_defaults(value: object, of: type) -> bool:
    """Return whether no field has its default, which a conversion that omits it would give."""
    return all(
        field.default is dataclasses.MISSING or getattr(value, field.name) != field.default
        for field in dataclasses.fields(of)
    )


def test_every_field_of_a_judgement_is_transferred() -> None:
    """A field that is added and not converted has a default, or none: both fail here."""
    assert differs_from_defaults(JUDGEMENT, Judgement)
    assert transfer.judgement_from_json(sent(transfer.judgement_as_json(JUDGEMENT))) == JUDGEMENT


def test_values_that_may_be_missing_are_transferred() -> None:
    empty = dataclasses.replace(JUDGEMENT, tee=None, platform=None, first_at=None, reasons=())
    assert transfer.judgement_from_json(sent(transfer.judgement_as_json(empty))) == empty


def test_every_field_of_a_status_is_transferred() -> None:
    assert differs_from_defaults(STATUS, GuestStatus)
    assert transfer.status_from_json(sent(transfer.status_as_json(STATUS))) == STATUS


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Judgement)])
@pytest.mark.parametrize("value", [3.5, [1], {"a": 1}])
def test_a_judgement_of_another_form_is_refused(name: str, value: JsonValue) -> None:
    as_json = transfer.judgement_as_json(JUDGEMENT)
    if name not in ("claims", "trust") or value != {"a": 1}:
        with pytest.raises(RequestError, match="message of another process"):
            transfer.judgement_from_json({**as_json, name: value})
    del as_json[name]
    if name in ("decided_by", "collateral", "tcb", "trust"):  # an earlier version stored none
        without = getattr(transfer.judgement_from_json(as_json), name)
        assert without == (UNTRUSTED if name == "trust" else ("" if name == "collateral" else None))
        return
    with pytest.raises(RequestError, match="message of another process"):
        transfer.judgement_from_json(as_json)


@pytest.mark.parametrize("value", [None, [], "text", 1])
def test_what_is_no_object_is_refused(value: JsonValue) -> None:
    with pytest.raises(RequestError):
        transfer.judgement_from_json(value)
    with pytest.raises(RequestError):
        transfer.status_from_json(value)
    with pytest.raises(RequestError):
        Inbox(History()).receive(1, value)


class Way:
    """The way from the outbox of a worker to a history."""

    def __init__(self, history: History, *, fails: int = 0) -> None:
        self.inbox = Inbox(history)
        self.fails = fails
        self.sizes: list[int] = []

    async def send(self, body: JsonValue) -> None:
        if self.fails:
            self.fails -= 1
            raise Overloaded("the operator process does not answer")
        assert isinstance(body, dict)
        judgements = body["judgements"]
        assert isinstance(judgements, list)
        self.sizes.append(len(judgements))
        self.inbox.receive(1, sent(body))

    async def lost_answer(self, body: JsonValue) -> None:
        """Deliver a message; the worker does not learn it the first time."""
        first = not self.sizes
        await self.send(body)
        if first:
            raise Overloaded("the operator process does not answer")


async def test_judgements_arrive_in_their_order() -> None:
    history, outbox = History(), Outbox()
    way = Way(history)
    delivering = asyncio.create_task(outbox.deliver(way.send))
    for each in judged(*(appraisal(number) for number in range(3 * BATCH))):
        outbox.remember(each)
    await elapse_until(lambda: history.counts(OPERATOR)[Verdict.ACCEPTED] == 3 * BATCH)
    assert [each.id for each in history.last(OPERATOR, Verdict.ACCEPTED, 0)] == [
        f"id{number}" for number in reversed(range(3 * BATCH))
    ]
    assert way.sizes == [BATCH] * 3
    (last,) = judged(appraisal(1000, policy_refused(RTMR1)))
    outbox.remember(last)
    await elapse(1)
    assert history.find(OPERATOR, "") == last
    delivering.cancel()


@pytest.mark.parametrize("fails", [1, 3, 12])
async def test_a_failure_loses_no_judgement_and_doubles_none(fails: int) -> None:
    history, outbox = History(), Outbox()
    way = Way(history, fails=fails)
    for each in judged(*(appraisal(number) for number in range(BATCH))):
        outbox.remember(each)
    delivering = asyncio.create_task(outbox.deliver(way.send))
    await elapse_until(lambda: not way.fails and history.counts(OPERATOR)[Verdict.ACCEPTED])
    await elapse(1)
    assert history.counts(OPERATOR)[Verdict.ACCEPTED] == BATCH
    delivering.cancel()


@pytest.mark.parametrize("fails", [0, 2, 7])
async def test_releases_of_a_worker_are_counted_once(fails: int) -> None:
    history, outbox = History(), Outbox()
    way = Way(history, fails=fails)
    outbox.note_release(["keys/a", "b/c/d"], NOW)
    outbox.note_release(["keys/a"], NOW + timedelta(seconds=1))
    delivering = asyncio.create_task(outbox.deliver(way.send))
    await elapse_until(lambda: history.uses.of("keys/a") is not None)
    await elapse(60)
    assert history.uses.of("keys/a") == Use(2, NOW + timedelta(seconds=1))
    assert history.uses.of("b/c/d") == Use(1, NOW)
    delivering.cancel()


@pytest.mark.parametrize("value", [1, [1], [0, NOW.isoformat()], [1, "now"], ["1", ""]])
def test_releases_of_another_form_are_refused(value: JsonValue) -> None:
    body: JsonValue = {
        "outbox": "a",
        "batch": 1,
        "omitted": {},
        "judgements": [],
        "uses": {"keys/a": value},
    }
    with pytest.raises(RequestError):
        Inbox(History()).receive(1, body)


async def test_a_message_whose_answer_is_lost_is_stored_once() -> None:
    history, outbox = History(), Outbox()
    way = Way(history)
    outbox.remember(JUDGEMENT)
    delivering = asyncio.create_task(outbox.deliver(way.lost_answer))
    await elapse_until(lambda: len(way.sizes) == 2)
    assert history.counts(OPERATOR)[Verdict.REFUSED] == 1
    outbox.remember(JUDGEMENT)
    await elapse_until(lambda: history.counts(OPERATOR)[Verdict.REFUSED] == 2)
    delivering.cancel()


async def test_what_the_history_would_evict_is_only_counted() -> None:
    history, outbox = History(capacity=5), Outbox(capacity=5)
    (important,) = judged(appraisal(0, policy_refused(RTMR1)))
    outbox.remember(important)
    for number in range(1, 50):
        for each in judged(appraisal(number), appraisal(number + 50, QuoteInvalid("no"), None)):
            outbox.remember(dataclasses.replace(each, address=f"192.0.2.{number}:5"))
    assert len(outbox._waiting) == 11
    delivering = asyncio.create_task(outbox.deliver(Way(history).send))
    await elapse_until(lambda: not outbox._waiting)
    assert history.find(OPERATOR, important.id) == important
    assert history.counts(OPERATOR) == {
        Verdict.REFUSED: 1,
        Verdict.UNVERIFIED: 49,
        Verdict.ACCEPTED: 49,
    }
    assert [each.id for each in history.last(OPERATOR, Verdict.ACCEPTED, 0)] == [
        f"id{number}" for number in (49, 48, 47, 46, 45)
    ]
    delivering.cancel()


async def test_a_replacement_of_a_worker_delivers_too() -> None:
    history = History()
    way = Way(history)
    for number in (1, 2):
        outbox = Outbox()
        outbox.remember(dataclasses.replace(JUDGEMENT, id=f"id{number}"))
        delivering = asyncio.create_task(outbox.deliver(way.send))
        await elapse_until(lambda number=number: len(way.sizes) == number)  # type: ignore[misc]
        delivering.cancel()
    assert history.counts(OPERATOR)[Verdict.REFUSED] == 2


async def test_a_message_is_bounded_by_its_size() -> None:
    """The evidence of refused guests is large, and the channel takes 4 MiB."""
    outbox = transfer.Outbox()
    sent: list[int] = []

    async def send(body: JsonValue) -> None:
        assert isinstance(body, dict)
        assert len(json.dumps(body)) < 4 * 1024 * 1024
        judgements = body["judgements"]
        assert isinstance(judgements, list)
        sent.append(len(judgements))

    large = dataclasses.replace(JUDGEMENT, event_log=bytes(256 * 1024), quote=bytes(64 * 1024))
    for number in range(10):
        outbox.remember(dataclasses.replace(large, id=str(number)))
    while sum(sent) < 10:
        await outbox._deliver_batch(send)
    assert sent == [4, 4, 2]
