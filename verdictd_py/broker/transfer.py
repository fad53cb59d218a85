"""Conversion of judgements and of guests' status to JSON and back, and their way between processes.

Guests are appraised in workers, and operators ask the operator process, which therefore has the one
history of the broker. Everything is converted explicitly: a message has plain JSON values only, and
a value of another type is refused, whatever the other process sends.

A worker stores what is not delivered yet, at most as much as the history itself stores. What would
already be evicted there is only counted. So nothing is lost unless a worker dies.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, TypeVar
from uuid import uuid4

from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.broker.retention import CAPACITY
from verdictd_py.broker.standing import GuestStatus, Standing
from verdictd_py.broker.uses import Use, Uses
from verdictd_py.domain.appraisal import DecidedBy
from verdictd_py.domain.tcb import TcbComparison, TcbComponent
from verdictd_py.domain.trust import UNTRUSTED, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason, ReasonKind, RequestError, VerdictdError

BATCH: Final = 32
"""Maximum number of judgements in a message, about 10 KiB each."""

BATCH_BYTES: Final = 1024 * 1024
"""Rough size from which a message gets no further judgement. One has at most about as much, with
its evidence and reasons; the channel takes four times as much."""

PAUSE_SECONDS: Final = 0.05
"""Pause after each message, so that a message has several judgements when many guests come."""

RETRY_SECONDS: Final = 1.0
"""Pause after a message that was not delivered."""

ATTEMPTS: Final = 5
"""Attempts to deliver a message, before its judgements are only counted. The channel ends them
itself, unless a message can never be delivered."""

Kind = TypeVar("Kind")


def judgement_as_json(judgement: Judgement) -> dict[str, JsonValue]:
    """Return all fields of a judgement."""
    by = judgement.decided_by
    return {
        "id": judgement.id,
        "at": judgement.at.isoformat(),
        "address": judgement.address,
        "verdict": judgement.verdict.value,
        "code": judgement.code,
        "tee": judgement.tee,
        "form": judgement.form,
        "tcb_status": judgement.tcb_status,
        "advisory_ids": list(judgement.advisory_ids),
        "claims": dict(judgement.claims),
        "withheld": list(judgement.withheld),
        "evidence": judgement.evidence,
        "reasons": [_reason_as_json(reason) for reason in judgement.reasons],
        "measurements": list(judgement.measurements),
        "not_pinnable": judgement.not_pinnable,
        "policy_skipped": judgement.policy_skipped,
        "judged": judgement.judged,
        "platform": judgement.platform,
        "times": judgement.times,
        "first_at": None if judgement.first_at is None else judgement.first_at.isoformat(),
        "earlier": list(judgement.earlier),
        "quote": b64encode(judgement.quote).decode(),
        "event_log": b64encode(judgement.event_log).decode(),
        "decided_by": None if by is None else [by.policy, by.data],
        "collateral": judgement.collateral,
        "trust": dict(judgement.trust),
        "tcb": None if judgement.tcb is None else _tcb_as_json(judgement.tcb),
    }


def judgement_from_json(value: JsonValue) -> Judgement:
    """Return the judgement that `judgement_as_json` converted.

    Raises:
        RequestError: the value has another form.
    """
    fields = _Fields(value)
    return Judgement(
        id=fields.of("id", str),
        at=fields.time("at"),
        address=fields.of("address", str),
        verdict=fields.member("verdict", Verdict),
        code=fields.of("code", str),
        tee=fields.optional("tee", str),
        form=fields.of("form", str),
        tcb_status=fields.of("tcb_status", str),
        advisory_ids=fields.texts("advisory_ids"),
        claims=fields.of("claims", dict),
        withheld=fields.texts("withheld"),
        evidence=fields.of("evidence", str),
        reasons=tuple(map(_reason_from_json, fields.of("reasons", list))),
        measurements=fields.texts("measurements"),
        not_pinnable=fields.of("not_pinnable", str),
        policy_skipped=fields.of("policy_skipped", bool),
        judged=fields.of("judged", bool),
        platform=fields.optional("platform", str),
        times=fields.of("times", int),
        first_at=None if fields.of("first_at", object) is None else fields.time("first_at"),
        earlier=fields.texts("earlier"),
        quote=fields.binary("quote"),
        event_log=fields.binary("event_log"),
        decided_by=_decided_by(fields),
        collateral=fields.text("collateral"),
        trust=_trust(fields),
        tcb=_tcb_from_json(fields.any("tcb")),
    )


def status_as_json(status: GuestStatus) -> dict[str, JsonValue]:
    """Return all fields of the status of a connected guest."""
    return {
        "id": status.id,
        "address": status.address,
        "tee": status.tee,
        "connected_at": status.connected_at.isoformat(),
        "appraisal": status.appraisal,
        "appraised_at": status.appraised_at.isoformat(),
        "standing": status.standing.value,
        "code": status.code,
        "reasons": list(status.reasons),
    }


def status_from_json(value: JsonValue) -> GuestStatus:
    """Return the status that `status_as_json` converted.

    Raises:
        RequestError: the value has another form.
    """
    fields = _Fields(value)
    return GuestStatus(
        id=fields.of("id", str),
        address=fields.of("address", str),
        tee=fields.of("tee", str),
        connected_at=fields.time("connected_at"),
        appraisal=fields.of("appraisal", str),
        appraised_at=fields.time("appraised_at"),
        standing=fields.member("standing", Standing),
        code=fields.of("code", str),
        reasons=fields.texts("reasons"),
    )


def _decided_by(fields: _Fields) -> DecidedBy | None:
    """Return the documents that decided; an earlier version did not store them."""
    value = fields.any("decided_by")
    if value is None:
        return None
    match value:
        case [str(policy), str(data)]:
            return DecidedBy(policy, data)
    raise _other_form("decided_by")


def _trust(fields: _Fields) -> TrustVector:
    """Return the trust vector; an earlier version did not store it."""
    value = fields.any("trust")
    if value is None:
        return UNTRUSTED
    if not isinstance(value, dict):
        raise _other_form("trust")
    vector = {name: number for name, number in value.items() if isinstance(number, int)}
    if len(vector) != len(value):
        raise _other_form("trust")
    return vector


def _tcb_as_json(tcb: TcbComparison) -> JsonValue:
    rows: list[JsonValue] = [
        [each.name, each.has, each.level, each.newest, each.elsewhere] for each in tcb.components
    ]
    return [tcb.status, tcb.date, tcb.newest_status, tcb.newest_date, rows]


def _tcb_from_json(value: JsonValue) -> TcbComparison | None:
    if value is None:
        return None
    match value:
        case [str(status), str(date), str(newest), str(newest_date), list(rows)]:
            components = tuple(map(_component, rows))
            return TcbComparison(status, date, newest, newest_date, components)
    raise _other_form("tcb")


def _component(value: JsonValue) -> TcbComponent:
    match value:
        case [str(name), int(has), int() | None as level, int(newest), bool(elsewhere)]:
            return TcbComponent(name, has, level, newest, elsewhere)
    raise _other_form("tcb")


def _reason_as_json(reason: Reason) -> dict[str, JsonValue]:
    return {
        "rule": reason.rule,
        "measured": reason.measured,
        "expected": reason.expected,
        "text": reason.text,
        "kind": reason.kind.name,
    }


def _reason_from_json(value: JsonValue) -> Reason:
    fields = _Fields(value)
    kind = ReasonKind.__members__.get(fields.of("kind", str))
    if kind is None:
        raise _other_form("kind")
    return Reason(
        rule=fields.of("rule", str),
        measured=fields.of("measured", str),
        expected=fields.of("expected", str),
        text=fields.of("text", str),
        kind=kind,
    )


class _Fields:
    """Members of a JSON object, read by their types."""

    def __init__(self, value: JsonValue) -> None:
        if not isinstance(value, dict):
            raise _other_form("object")
        self._members = value

    def of(self, name: str, kind: type[Kind]) -> Kind:
        """Return the member with this name.

        Raises:
            RequestError: it is missing, or of another type.
        """
        value = self._members.get(name, _MISSING)
        if not isinstance(value, kind) or value is _MISSING:
            raise _other_form(name)
        return value

    def optional(self, name: str, kind: type[Kind]) -> Kind | None:
        return None if self.of(name, object) is None else self.of(name, kind)

    def texts(self, name: str) -> tuple[str, ...]:
        values = self.of(name, list)
        if not all(isinstance(value, str) for value in values):
            raise _other_form(name)
        return tuple(values)

    def any(self, name: str) -> JsonValue:
        """Return the member with this name; None if there is none."""
        return self._members.get(name)

    def text(self, name: str) -> str:
        """Return the text with this name; empty if there is none."""
        return "" if name not in self._members else self.of(name, str)

    def binary(self, name: str) -> bytes:
        """Return the bytes of a member in base64."""
        try:
            return b64decode(self.of(name, str), validate=True)
        except ValueError:
            raise _other_form(name) from None

    def number(self, name: str) -> int:
        """Return a number of at least 0; 0 if there is none with this name."""
        number = self._members.get(name, 0)
        if not isinstance(number, int) or number < 0:
            raise _other_form(name)
        return number

    def time(self, name: str) -> datetime:
        try:
            moment = datetime.fromisoformat(self.of(name, str))
        except ValueError:
            raise _other_form(name) from None
        if moment.tzinfo is None:
            raise _other_form(name)
        return moment

    def member(self, name: str, of: Callable[[str], Kind]) -> Kind:
        try:
            return of(self.of(name, str))
        except ValueError:
            raise _other_form(name) from None


_MISSING: Final = object()


def _other_form(name: str) -> RequestError:
    return RequestError(f"a message of another process has no valid {name}")


class Outbox:
    """Judgements of a worker on their way to the history of the operator process.

    Args:
        capacity: number of judgements of each verdict that the history stores.
    """

    def __init__(self, *, capacity: int = CAPACITY) -> None:
        self._id = uuid4().hex
        self._capacity = capacity
        self._waiting: deque[Judgement] = deque()
        self._numbers: Counter[Verdict] = Counter()
        self._omitted: Counter[Verdict] = Counter()
        self._uses = Uses()
        self._batches = 0
        self._stored = asyncio.Event()

    def remember(self, judgement: Judgement) -> None:
        """Store a judgement until it is delivered."""
        self._waiting.append(judgement)
        self._numbers[judgement.verdict] += 1
        if self._numbers[judgement.verdict] > self._capacity:
            self._omit_oldest(judgement.verdict)
        self._stored.set()

    def note_release(self, paths: Sequence[str], at: datetime) -> None:
        """Count a release of each path until it is delivered."""
        self._uses.note(paths, at)
        self._stored.set()

    async def deliver(self, send: Callable[[JsonValue], Awaitable[object]]) -> None:
        """Deliver all judgements in their order, until cancelled.

        Args:
            send: returns when the operator process has stored a message; raises a
                `VerdictdError` if that is not known.
        """
        while True:
            await self._stored.wait()
            self._stored.clear()
            while self._waiting or self._omitted or self._uses:
                await self._deliver_batch(send)

    async def _deliver_batch(self, send: Callable[[JsonValue], Awaitable[object]]) -> None:
        batch = self._next_batch()
        self._numbers.subtract(judgement.verdict for judgement in batch)
        omitted, self._omitted = self._omitted, Counter()
        uses, self._uses = self._uses, Uses()
        self._batches += 1
        body: JsonValue = {
            "outbox": self._id,
            "batch": self._batches,
            "omitted": {verdict.value: number for verdict, number in omitted.items()},
            "judgements": [judgement_as_json(judgement) for judgement in batch],
            "uses": {path: [use.number, use.last_at.isoformat()] for path, use in uses.items()},
        }
        for _ in range(ATTEMPTS):
            try:
                await send(body)
            except VerdictdError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await asyncio.sleep(PAUSE_SECONDS)
                return
        self._uses.add(dict(uses.items()))
        self._omitted += omitted + Counter(judgement.verdict for judgement in batch)

    def _next_batch(self) -> list[Judgement]:
        """Take the judgements of the next message, at least one if there are any."""
        batch: list[Judgement] = []
        size = 0
        while self._waiting and len(batch) < BATCH and size < BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += batch[-1].size
        return batch

    def _omit_oldest(self, verdict: Verdict) -> None:
        """Discard the oldest judgement of a verdict, which the history would evict."""
        for index, judgement in enumerate(self._waiting):
            if judgement.verdict is verdict:
                del self._waiting[index]
                self._numbers[verdict] -= 1
                self._omitted[verdict] += 1
                return


def _uses(members: Mapping[str, JsonValue]) -> dict[str, Use]:
    found = {}
    for path, value in members.items():
        match value:
            case [int(number), str(at)] if number > 0:
                found[path] = Use(number, _Fields({"at": at}).time("at"))
            case _:
                raise _other_form("uses")
    return found


class Inbox:
    """Receiver of the messages of all outboxes, in the operator process."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._last: dict[int, tuple[str, int]] = {}

    def receive(self, worker: int, body: JsonValue) -> None:
        """Store the judgements of a message, unless they are stored already.

        Args:
            worker: number of the worker; a replacement has the number of its predecessor.

        Raises:
            RequestError: the message has another form; nothing of it is stored.
        """
        fields = _Fields(body)
        identity = fields.of("outbox", str), fields.of("batch", int)
        judgements = tuple(map(judgement_from_json, fields.of("judgements", list)))
        omitted = _Fields(fields.of("omitted", dict))
        uses = _uses(fields.of("uses", dict))
        numbers = {verdict: omitted.number(verdict.value) for verdict in Verdict}
        outbox, batch = self._last.get(worker, ("", 0))
        if identity[0] == outbox and identity[1] <= batch:
            return
        self._last[worker] = identity
        for verdict, number in numbers.items():
            self._history.count_omitted(verdict, number)
        for judgement in judgements:
            self._history.remember(judgement)
        self._history.uses.add(uses)
