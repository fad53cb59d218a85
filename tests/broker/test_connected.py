"""Connected guests: when each is appraised again, and what that means for its requests."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest

from tests.support.clock import elapse, until
from tests.support.events import RecordedEvents
from tests.support.memory import (
    EVIDENCE,
    NOW,
    REPORT_DATA,
    VERIFIED,
    ScriptedPolicy,
    ScriptedVerifier,
)
from tests.support.tees import TEES
from tests.tees.support import platform
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.connected import (
    CHECK_SECONDS,
    MAX_AGE_SECONDS,
    RENEW_SECONDS,
    RETRY_SECONDS,
    Changes,
    ConnectedGuest,
    ConnectedGuests,
    PeerConnection,
)
from verdictd_py.broker.standing import Standing
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import (
    CollateralUnavailable,
    GuestRefused,
    NotAppraised,
    NotFound,
    Overloaded,
    Reason,
    StorageError,
)

OPERATOR = Caller("operator", ROLES["operator"])
DENIED = (Reason("policy", "", "", "policy: allow is false"),)


@dataclass
class Documents:
    """Port `PolicyRevisions`, whose revision a test sets."""

    number: int | Exception = 1
    seen: int = 1

    def last_revision(self, tee: str) -> int:
        del tee
        return self.seen

    async def revision(self, tee: str) -> int:
        del tee
        await asyncio.sleep(0)
        if isinstance(self.number, Exception):
            raise self.number
        self.seen = self.number
        return self.number


@dataclass
class Place:
    """Connected guests over a scripted verifier and policy."""

    verifier: ScriptedVerifier = field(default_factory=ScriptedVerifier)
    policy: ScriptedPolicy = field(default_factory=ScriptedPolicy)
    documents: Documents = field(default_factory=Documents)
    changes: Changes = field(default_factory=Changes)
    events: RecordedEvents = field(default_factory=RecordedEvents)
    now: datetime = NOW
    closed: list[str] = field(default_factory=list)
    platforms: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guests = ConnectedGuests(
            Appraiser(
                verifiers={"tdx": self.verifier},
                tees=TEES,
                policy=self.policy,
                clock=lambda: self.now,
                events=self.events,
            ),
            self.documents,
            self.changes,
            lambda: self.now,
            self.events,
        )

    async def connected(
        self, evidence: Evidence = EVIDENCE, address: str = "a:1"
    ) -> ConnectedGuest:
        connection = PeerConnection(
            address, self.platforms.append, lambda: self.closed.append(address)
        )
        return await self.guests.admit(lambda now: evidence, connection)

    @property
    def appraisals(self) -> int:
        return len(self.verifier.asked)

    def recorded(self) -> list[str]:
        return [name for name in self.events.names if name.startswith("guest.")]


async def test_nothing_is_appraised_again_while_nothing_changes() -> None:
    place = Place()
    guest = await place.connected()
    await elapse(MAX_AGE_SECONDS - 5)
    for _ in range(10):
        assert (await guest.require_accepted()).appraisal_id == guest.id
    assert place.appraisals == 1


def announced(place: Place) -> None:
    place.changes.announce()


def edited(place: Place) -> None:
    place.documents.number = 2


@pytest.mark.parametrize("change", [announced, edited])
async def test_the_request_after_a_change_waits_for_an_appraisal(
    change: Callable[[Place], None],
) -> None:
    place = Place()
    guest = await place.connected()
    change(place)
    place.policy.answer = DENIED
    with pytest.raises(GuestRefused, match="refused: policy-refused; ask the operator about"):
        await guest.require_accepted()
    assert place.recorded() == ["guest.accepted", "guest.refused", "guest.disconnected"]


@pytest.mark.parametrize("change", [announced, edited])
async def test_a_change_during_the_first_appraisal_counts(
    change: Callable[[Place], None],
) -> None:
    """The policy accepts the guest, and is replaced before the guest is connected."""
    place = Place()
    answer = place.policy.failures

    async def failures(*arguments: object) -> tuple[Reason, ...]:
        found = await answer(*arguments)  # type: ignore[arg-type]  # passed on
        change(place)
        place.policy.answer = DENIED
        return found

    place.policy.failures = failures  # type: ignore[method-assign,assignment]  # changes it
    guest = await place.connected()
    with pytest.raises(GuestRefused):
        await guest.require_accepted()


async def test_an_old_appraisal_is_repeated_before_a_request() -> None:
    place = Place()
    guest = await place.connected()
    await elapse(MAX_AGE_SECONDS)
    place.policy.answer = DENIED
    with pytest.raises(GuestRefused):
        await guest.require_accepted()


async def test_expired_collateral_is_noticed_by_the_wall_clock() -> None:
    place = Place()
    end = NOW + timedelta(days=1)
    place.verifier.answer = replace(VERIFIED, valid_until=end)
    guest = await place.connected()
    place.now = end
    await guest.require_accepted()
    assert place.appraisals == 1
    place.now += timedelta(seconds=1)
    await guest.require_accepted()
    await guest.require_accepted()  # the verifier accepts expired collateral: not again each time
    assert place.appraisals == 2


async def test_changed_claims_are_those_of_the_next_request() -> None:
    """The release policy must see the claims that were verified last, under a recorded id."""
    place = Place()
    guest = await place.connected()
    place.verifier.answer = replace(VERIFIED, claims={"mrTd": "ab", "tcbStatus": "OutOfDate"})
    place.changes.announce()
    peer = await guest.require_accepted()
    assert peer.claims["tcbStatus"] == "OutOfDate"
    assert peer.appraisal_id != guest.id
    assert place.events.named("guest.accepted")[-1]["appraisal"] == peer.appraisal_id


async def test_an_unchanged_result_is_not_recorded_again() -> None:
    place = Place()
    guest = await place.connected()
    for _ in range(5):
        place.changes.announce()
        assert (await guest.require_accepted()).appraisal_id == guest.id
    assert place.appraisals == 6
    assert place.recorded() == ["guest.accepted"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CollateralUnavailable("the PCCS does not respond"), "collateral-unavailable"),
        (RuntimeError("secret text"), "internal-error"),
        (OSError(24, "Too many open files"), "internal-error"),
    ],
)
async def test_a_guest_that_cannot_be_appraised_is_served_again_as_soon_as_it_can(
    error: Exception, code: str
) -> None:
    place = Place()
    guest = await place.connected()
    place.verifier.answer = error
    place.changes.announce()
    for _ in range(3):
        with pytest.raises(NotAppraised) as failure:
            await guest.require_accepted()
        assert failure.value.code == code
    assert place.appraisals == 2  # the guest cannot cause an appraisal with each request
    assert "secret text" not in place.events.text
    assert guest.status.standing is Standing.NOT_APPRAISED
    place.verifier.answer = VERIFIED
    await elapse(RETRY_SECONDS)
    await guest.require_accepted()
    assert place.recorded() == ["guest.accepted", "guest.not-judged", "guest.accepted"]


async def test_a_change_ends_the_pause_after_a_failure() -> None:
    place = Place()
    guest = await place.connected()
    place.documents.number = StorageError("opa/tdxPolicy.rego cannot be read")
    place.policy.answer = CollateralUnavailable("as an unreadable policy")
    with pytest.raises(NotAppraised):
        await guest.require_accepted()
    place.documents.number, place.policy.answer = 1, ()
    await guest.require_accepted()


async def test_failures_do_not_accumulate_in_memory() -> None:
    place = Place()
    guest = await place.connected()
    place.verifier.answer = CollateralUnavailable("none")
    place.changes.announce()
    lengths = []
    for _ in range(3):
        with pytest.raises(NotAppraised) as failure:
            await guest.require_accepted()
        lengths.append(len(failure.traceback))
    assert len(set(lengths[1:])) == 1
    assert failure.value.__cause__ is failure.value.__context__ is None


async def test_the_background_task_appraises_each_guest_within_five_minutes() -> None:
    place = Place()
    guests = [await place.connected(address=f"a:{number}") for number in range(3)]
    task = asyncio.create_task(place.guests.keep_appraised())
    passed = 0.0
    while passed < MAX_AGE_SECONDS - 1:
        await elapse(CHECK_SECONDS)
        passed += CHECK_SECONDS
    await until(lambda: place.appraisals >= 6)
    assert place.appraisals == 6
    ages = [asyncio.get_running_loop().time() - guest.began for guest in guests]
    assert max(ages) <= MAX_AGE_SECONDS - RENEW_SECONDS + CHECK_SECONDS
    assert place.recorded() == ["guest.accepted"] * 3
    task.cancel()


async def test_changes_wake_the_background_task_once_and_it_takes_one_guest_at_a_time() -> None:
    place = Place()
    running, most = 0, 0
    verify = place.verifier.verify

    async def counted(evidence: Evidence, *, now: datetime) -> object:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(50):
            await asyncio.sleep(0)
        running -= 1
        return await verify(evidence, now=now)

    for number in range(20):
        await place.connected(address=f"a:{number}")
    place.verifier.verify = counted  # type: ignore[method-assign,assignment]  # counts calls
    task = asyncio.create_task(place.guests.keep_appraised())
    for _ in range(50):
        place.changes.announce()
    await until(lambda: place.appraisals == 40)
    await elapse(CHECK_SECONDS)
    assert place.appraisals == 40
    assert most == 1
    task.cancel()


async def test_a_refused_guest_is_recorded_before_it_requests_anything() -> None:
    place = Place()
    guest = await place.connected()
    place.policy.answer = DENIED
    place.changes.announce()
    await place.guests.appraise_due()
    await place.guests.appraise_due()
    assert place.recorded() == ["guest.accepted", "guest.refused"]
    (status,) = await place.guests.list_guests(OPERATOR)
    assert (status.standing, status.code) == (Standing.REFUSED, "policy-refused")
    assert status.appraisal != status.id == guest.id
    place.policy.answer = ()
    place.changes.announce()  # the operator corrects the policy before the guest requests anything
    await guest.require_accepted()


async def test_one_guest_that_cannot_be_appraised_does_not_stop_the_others() -> None:
    place = Place()
    for number in range(3):
        await place.connected(address=f"a:{number}")
    place.verifier.answer = RuntimeError("a bug")
    place.changes.announce()
    await place.guests.appraise_due()
    standings = {status.standing for status in await place.guests.list_guests(OPERATOR)}
    assert standings == {Standing.NOT_APPRAISED}
    assert place.appraisals == 6


async def test_a_request_waits_for_an_appraisal_in_progress() -> None:
    place = Place()
    guest = await place.connected()
    verify, entered, go = place.verifier.verify, asyncio.Event(), asyncio.Event()

    async def held(evidence: Evidence, *, now: datetime) -> object:
        entered.set()
        await go.wait()
        return await verify(evidence, now=now)

    place.verifier.verify = held  # type: ignore[method-assign,assignment]  # waits
    place.policy.answer = DENIED
    place.changes.announce()
    background = asyncio.create_task(place.guests.appraise_due())
    await entered.wait()
    request = asyncio.create_task(guest.require_accepted())
    await elapse(0)
    assert not request.done()
    go.set()
    with pytest.raises(GuestRefused):
        await request
    await background
    assert place.appraisals == 2


async def test_a_guest_that_left_is_neither_listed_nor_appraised() -> None:
    place = Place()
    with await place.connected():
        assert len(await place.guests.list_guests(OPERATOR)) == 1
    assert await place.guests.list_guests(OPERATOR) == ()
    place.changes.announce()
    await place.guests.appraise_due()
    assert place.appraisals == 1


@pytest.mark.parametrize("by", ["id", "appraisal"])
async def test_an_operator_disconnects_a_guest(by: str) -> None:
    place = Place()
    guest, other = await place.connected(), await place.connected(address="b:2")
    place.policy.answer = DENIED
    place.changes.announce()
    await place.guests.appraise_due()
    await place.guests.disconnect(OPERATOR, getattr(guest.status, by))
    assert place.closed == ["a:1"]
    assert [status.id for status in await place.guests.list_guests(OPERATOR)] == [other.id]
    (event,) = place.events.named("guest.disconnected")
    assert (event["caller"], event["peer"], event["guest"]) == ("operator", "a:1", guest.id)
    place.policy.answer = ()
    place.changes.announce()
    with pytest.raises(GuestRefused):
        await guest.require_accepted()  # also if its connection has not ended yet
    with pytest.raises(NotFound):
        await place.guests.disconnect(OPERATOR, guest.id)


async def test_a_refused_or_unappraised_guest_is_not_connected() -> None:
    place = Place()
    place.policy.answer = DENIED
    with pytest.raises(GuestRefused):
        await place.connected()
    place.verifier.answer = CollateralUnavailable("none")
    with pytest.raises(NotAppraised):
        await place.connected()
    assert await place.guests.list_guests(OPERATOR) == ()


def of_a_genuine_guest() -> Evidence:
    """Evidence that names the guest's key, so that a broker that cannot judge it keeps it."""
    return replace(EVIDENCE, quote=platform().quote(REPORT_DATA), form="genuine")


async def test_a_guest_that_cannot_be_judged_is_pending_if_its_evidence_names_its_key() -> None:
    place = Place()
    place.verifier.answer = CollateralUnavailable("none")
    for binding in (None, b"", b"another key"):
        with pytest.raises(NotAppraised):
            await place.connected(replace(of_a_genuine_guest(), binding=binding))
    assert await place.guests.list_guests(OPERATOR) == ()
    guest = await place.connected(of_a_genuine_guest())
    (status,) = await place.guests.list_guests(OPERATOR)
    assert (status.standing, status.code) == (Standing.NOT_APPRAISED, "collateral-unavailable")
    assert status.id == place.events.named("guest.not-judged")[-1]["appraisal"]
    assert guest.is_pending
    assert place.platforms == []


async def test_a_pending_guest_is_counted_under_its_platform_before_it_is_recorded() -> None:
    place = Place()
    place.verifier.answer = CollateralUnavailable("none")
    guest = await place.connected(of_a_genuine_guest())
    place.verifier.answer = replace(VERIFIED, platform="machine")
    recorded: list[list[str]] = []

    def attest(platform: str | None) -> None:
        recorded.append(place.recorded())
        if len(recorded) == 1:
            raise Overloaded("this platform has 2 attested connections already")
        place.platforms.append(platform)

    guest._connection = replace(guest._connection, attest=attest)
    place.changes.announce()
    with pytest.raises(NotAppraised) as failure:
        await guest.require_accepted()
    assert failure.value.code == "no-capacity"
    await elapse(RETRY_SECONDS)
    await guest.require_accepted()
    assert place.platforms == ["machine"]
    assert recorded == [["guest.not-judged"], ["guest.not-judged"] * 2]


async def test_only_pending_guests_announce_their_refusal() -> None:
    place = Place()
    accepted = await place.connected()
    place.verifier.answer = CollateralUnavailable("none")
    pending = await place.connected(of_a_genuine_guest(), address="b:2")
    place.verifier.answer, place.policy.answer = VERIFIED, DENIED
    place.changes.announce()
    waiting = [asyncio.create_task(guest.wait_for_refusal()) for guest in (accepted, pending)]
    await place.guests.appraise_due()
    await elapse(0)
    assert [task.done() for task in waiting] == [False, True]
    place.policy.answer = ()
    place.changes.announce()
    await pending.require_accepted()
    assert pending._refused is not None
    assert not pending._refused.is_set()
    waiting[0].cancel()


async def test_accepted_guests_are_appraised_before_pending_ones() -> None:
    place = Place()
    place.verifier.answer = CollateralUnavailable("none")
    for number in range(3):
        await place.connected(of_a_genuine_guest(), address=f"b:{number}")
    place.verifier.answer = VERIFIED
    await place.connected()
    order: list[str] = []

    async def slow(evidence: Evidence, *, now: datetime) -> object:
        order.append(evidence.form)
        await elapse(CHECK_SECONDS * 0.6)
        raise CollateralUnavailable("none")

    place.verifier.verify = slow  # type: ignore[method-assign,assignment]  # takes long
    place.changes.announce()
    await place.guests.appraise_due()
    assert order == [EVIDENCE.form, "genuine"]
    await elapse(RETRY_SECONDS)
    place.changes.announce()
    await place.guests.appraise_due()
    assert order == [EVIDENCE.form, "genuine"] * 2


async def test_a_connected_guest_takes_a_few_kilobytes() -> None:
    """Guests of one platform type send equal endorsements, which are stored once."""
    place = Place()

    def evidence(number: int) -> Evidence:
        quote = number.to_bytes(2, "big") * 2500
        return replace(EVIDENCE, quote=quote, endorsements="x" * 19_999 + str(number % 1))

    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    guests = []
    for number in range(100):
        guests.append(await place.connected(evidence(number)))
        place.verifier.asked.clear()
        place.policy.asked.clear()
        place.events.events.clear()
    each = (tracemalloc.get_traced_memory()[0] - before) / 100
    tracemalloc.stop()
    assert each < 12_000, each
    for guest in guests:
        with guest:
            pass
    assert not place.guests._endorsements._users
