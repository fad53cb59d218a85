"""Connected guests, which are appraised again as long as their connections last.

A guest that cannot be appraised when it connects, for a reason of the broker's own, is *pending*:
it stays connected without being served, because real guests connect once and never again. It is
served when an appraisal accepts it, and disconnected when one refuses it.

A guest is accepted when it connects, and its connection may last for months. Meanwhile policies,
reference values, named sets and collateral change or expire. The broker therefore stores the
evidence of each connected guest and appraises it again:

* before it answers a request, if something has changed since the guest's last appraisal, or if that
  is `MAX_AGE_SECONDS` old;
* in the background, one guest at a time, so that requests rarely have to wait for that.

Secrets are protected by the first rule alone. Ages and pauses are measured by the clock of the
event loop, the validity of collateral by the wall clock. The dates of the guest's certificate are
not checked again: the TLS session was established while they were valid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from types import TracebackType
from typing import Final, Self

from verdictd_py.broker.appraiser import Appraiser, EvidenceReader
from verdictd_py.broker.endorsements import SharedEndorsements
from verdictd_py.broker.standing import (
    Basis,
    GuestStatus,
    Result,
    Standing,
    valid_until_of,
)
from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import GuestDisconnected, WarningAudit
from verdictd_py.domain.evidence import NO_TEE, Evidence
from verdictd_py.errors import (
    GuestRefused,
    InternalError,
    NoCapacity,
    NotAppraised,
    NotFound,
    Overloaded,
    StorageError,
    VerdictdError,
)
from verdictd_py.ports import Events, PolicyRevisions

MAX_AGE_SECONDS: Final = 300.0
"""Age of an appraisal at which the guest's next request waits for another one."""

RENEW_SECONDS: Final = 240.0
"""Age at which the background task appraises a guest again, so that no request has to wait."""

CHECK_SECONDS: Final = 30.0
"""Pause between two searches for guests to appraise again, unless a change is announced."""

RETRY_SECONDS: Final = 10.0
"""Pause after an appraisal that failed for a reason of the broker's own; any change ends it."""

_MAX_PAUSE_SECONDS: Final = 1.0
"""Longest pause between two guests in the background; usually as long as the appraisal took."""


class Changes:
    """Counter of the changes after which connected guests are appraised again.

    Attributes:
        count: number of changes so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._announced = asyncio.Event()

    def announce(self) -> None:
        """Count a change. Several changes in a row cause one search for guests."""
        self.count += 1
        self._announced.set()

    async def wait(self, seconds: float) -> None:
        """Wait until a change is announced, at most for some seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._announced.wait()
        except TimeoutError:
            return
        self._announced.clear()


@dataclass(frozen=True, slots=True)
class PeerConnection:
    """The connection of a guest, as its listener provides it.

    Attributes:
        address: address of the peer, for log and audit.
        attest: counts the connection under its guest's platform, when the guest is accepted for
            the first time; raises `Overloaded`.
        disconnect: closes the connection, when an operator requests that.
    """

    address: str
    attest: Callable[[str | None], object]
    disconnect: Callable[[], object]


class ConnectedGuest:
    """A guest, from its first appraisal to the end of its connection.

    It is a context manager: after the block, the guest is no longer connected.

    Attributes:
        id: id of the guest's first appraisal.
        address: address of the peer, for log and audit.
        evidence: evidence to appraise again; None for a guest that was accepted without any.
    """

    def __init__(
        self,
        guests: ConnectedGuests,
        connection: PeerConnection,
        evidence: Evidence | None,
        result: Result,
        accepted: AppraisedPeer | None,
    ) -> None:
        self.id = result.record
        self.address = connection.address
        self.evidence = evidence
        self._guests = guests
        self._connection = connection
        self._tee = NO_TEE if evidence is None else evidence.tee
        self._peer = accepted
        self._connected_at = result.at
        self._result = result
        self._connected = True
        self._appraising = asyncio.Lock()
        # An event takes 760 bytes; only a pending guest is waited for.
        self._refused = asyncio.Event() if accepted is None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connected = False
        self._guests.forget(self)

    @property
    def is_pending(self) -> bool:
        """Whether no appraisal has accepted the guest so far."""
        return self._peer is None

    @property
    def began(self) -> float:
        """When the last appraisal began, by the clock of the event loop."""
        return self._result.began

    @property
    def status(self) -> GuestStatus:
        result = self._result
        return GuestStatus(
            id=self.id,
            address=self.address,
            tee=self._tee,
            connected_at=self._connected_at,
            appraisal=result.record,
            appraised_at=result.at,
            standing=result.standing,
            code=result.code,
            reasons=result.reasons,
        )

    async def require_accepted(self) -> AppraisedPeer:
        """Return the guest as it is accepted now, for one request.

        Raises:
            GuestRefused: the guest is refused: its connection must be closed.
            NotAppraised: the guest cannot be appraised now; it is served again when it can be.
        """
        await self.appraise_if_due(MAX_AGE_SECONDS)
        failure = self._result.failure
        if not self._connected:
            raise GuestRefused("the operator of the broker has disconnected this guest")
        if isinstance(failure, GuestRefused):
            await self._guests.record_refusal(self.status)
        if failure is not None or self._peer is None:
            raise (failure or InternalError("the guest has no verdict")).with_traceback(None)
        return self._peer

    async def wait_for_refusal(self) -> None:
        """Wait until a pending guest is refused: its connection must be closed.

        The refusal of any other guest is reported at its next request.
        """
        await (self._refused or asyncio.Event()).wait()

    @property
    def basis(self) -> Basis:
        """What the last appraisal depends on."""
        return self._result.basis

    async def is_unchanged(self, since: Basis) -> bool:
        """Return whether nothing that decides has changed since an appraisal.

        Called before an answer is sent, because a change may have been acknowledged meanwhile.
        """
        if self.evidence is None:
            return True
        basis = await self._guests.basis(self._tee)
        return basis == since and not basis.is_unknown

    async def appraise_if_due(self, max_age: float) -> None:
        """Appraise the guest again if its last appraisal is outdated, too old or failed.

        Concurrent calls for one guest appraise it once.
        """
        if self.evidence is None:
            return
        async with self._appraising:
            # Read first: a change during the appraisal makes its result outdated.
            basis = await self._guests.basis(self._tee)
            if self.is_due(basis, max_age):
                await self._appraise(self.evidence, basis)

    def is_due(self, basis: Basis, max_age: float) -> bool:
        """Return whether the last appraisal has another basis, is too old, or has expired."""
        result = self._result
        age = asyncio.get_running_loop().time() - result.began
        if result.standing is Standing.NOT_APPRAISED:
            max_age = min(max_age, RETRY_SECONDS)
        elif basis.is_unknown:  # two bases of which nothing is known are not the same
            return True
        until = result.valid_until
        expired = until is not None and result.at <= until < self._guests.clock()
        return basis != result.basis or age >= max_age or expired

    def disconnect(self) -> None:
        """Close the connection now; no further request is answered."""
        self._connected = False
        self._connection.disconnect()

    async def _appraise(self, evidence: Evidence, basis: Basis) -> None:
        """Appraise the guest, and record the result if it differs from the last one."""
        began, at = asyncio.get_running_loop().time(), self._guests.clock()
        last = self._result
        try:
            appraisal = await self._guests.appraiser.assess(lambda _: evidence)
            self._reserve(appraisal)
            reasons = tuple(reason.text for reason in appraisal.reasons)
            if self._is_new(appraisal, reasons):
                await self._guests.appraiser.record_appraised(appraisal, self.address)
            else:
                appraisal = replace(appraisal, id=last.record)
        except NotAppraised as error:
            record = last.record
            if last.standing is not Standing.NOT_APPRAISED or last.code != error.code:
                record = await self._guests.appraiser.record_not_appraised(error, self.address)
            self._result = Result.not_appraised(error, basis, began, at, record)
            if self._refused is not None:
                self._refused.clear()
            return
        self._result = Result(
            basis,
            began,
            at,
            appraisal.id,
            None if appraisal.accepted else GuestRefused(appraisal.text_for_guest),
            appraisal.code,
            reasons,
            valid_until_of(appraisal),
        )
        if appraisal.accepted:
            self._peer = AppraisedPeer.of(appraisal, address=self.address)
        if self._refused is None:
            return
        if self._peer is None:
            self._refused.set()
        else:
            self._refused.clear()

    def _reserve(self, appraisal: Appraisal) -> None:
        """Count a pending guest's connection under its platform, if the guest is accepted now.

        Raises:
            NoCapacity: there are too many guests of this platform, or of all.
        """
        if self._peer is None and appraisal.accepted:
            try:
                self._connection.attest(appraisal.platform)
            except Overloaded as error:
                raise NoCapacity(str(error)) from None

    def _is_new(self, appraisal: Appraisal, reasons: tuple[str, ...]) -> bool:
        """Return whether an appraisal has another result than the last one."""
        if (self._result.code, self._result.reasons) != (appraisal.code, reasons):
            return True
        if self._peer is None or not appraisal.accepted:
            return False
        return (appraisal.claims, appraisal.trust) != (self._peer.claims, self._peer.trust)


class ConnectedGuests:
    """The connected guests of all attested listeners.

    Args:
        appraiser: appraises guests when they connect, and again.
        documents: revisions of the documents that decide.
        changes: announced changes of anything else that decides, such as collateral.
        clock: returns now, with a time zone.
        events: records internal errors and disconnected guests.
    """

    def __init__(
        self,
        appraiser: Appraiser,
        documents: PolicyRevisions,
        changes: Changes,
        clock: Callable[[], datetime],
        events: Events,
    ) -> None:
        self.appraiser = appraiser
        self.clock = clock
        self._documents = documents
        self._changes = changes
        self._events = events
        self._guests: dict[str, ConnectedGuest] = {}
        self._endorsements = SharedEndorsements()

    async def admit(self, read: EvidenceReader, connection: PeerConnection) -> ConnectedGuest:
        """Appraise a guest that connects, and store its evidence unless it is refused.

        Returns:
            The guest. It is pending if it cannot be appraised now and its evidence names the key
            of its connection.

        Raises:
            GuestRefused: the guest is refused.
            NotAppraised: the guest cannot be appraised now, and sent no evidence of its own.
            Overloaded: there are too many guests of this platform, or of all.
        """
        presented: list[tuple[Evidence, int]] = []
        changes = self._changes.count
        began = asyncio.get_running_loop().time()

        def read_and_note(now: datetime) -> Evidence:
            evidence = read(now)
            presented.append((evidence, self._documents.last_revision(evidence.tee)))
            return evidence

        peer: AppraisedPeer | None = None
        evidence: Evidence | None
        try:
            appraisal = await self.appraiser.admit(read_and_note, address=connection.address)
        except NotAppraised as error:
            if not presented or not self.appraiser.is_bound(presented[0][0]):
                raise
            evidence, revision = presented[0]
            basis = Basis(changes, revision)
            result = Result.not_appraised(error, basis, began, self.clock(), error.record)
        else:
            if not appraisal.accepted:
                raise GuestRefused(appraisal.text_for_guest)
            connection.attest(appraisal.platform)
            evidence, revision = presented[0] if presented else (None, 0)
            basis = Basis(changes, revision)
            until = valid_until_of(appraisal)
            result = Result(basis, began, appraisal.at, appraisal.id, valid_until=until)
            peer = AppraisedPeer.of(appraisal, address=connection.address)
        if evidence is not None and evidence.endorsements is not None:
            sent = evidence.endorsements
            evidence = replace(evidence, endorsements=self._endorsements.shared(sent))
        guest = ConnectedGuest(self, connection, evidence, result, peer)
        self._guests[guest.id] = guest
        return guest

    async def keep_appraised(self) -> None:
        """Appraise guests again after changes and at intervals, until cancelled."""
        while True:
            await self._changes.wait(CHECK_SECONDS)
            await self.appraise_due()

    async def appraise_due(self) -> None:
        """Appraise all guests whose appraisal is outdated or old, the oldest first.

        Pending guests come last, and only while the search has not taken `CHECK_SECONDS`: peers
        that wait for a verdict must not delay the accepted guests, however many they are.
        """
        bases: dict[str, Basis] = {}
        guests = [guest for guest in self._guests.values() if guest.evidence is not None]
        end = asyncio.get_running_loop().time() + CHECK_SECONDS
        for guest in sorted(guests, key=lambda guest: (guest.is_pending, guest.began)):
            if guest.is_pending and asyncio.get_running_loop().time() >= end:
                return
            tee = guest.status.tee
            if tee not in bases:
                bases[tee] = await self.basis(tee)
            if guest.is_due(bases[tee], RENEW_SECONDS):
                started = asyncio.get_running_loop().time()
                await guest.appraise_if_due(RENEW_SECONDS)
                took = asyncio.get_running_loop().time() - started
                await asyncio.sleep(min(took, _MAX_PAUSE_SECONDS))  # the event loop serves others

    async def list_guests(self, caller: Caller) -> tuple[GuestStatus, ...]:
        """Return the status of every connected guest, the first to connect first.

        Raises:
            NotAuthorized: the caller is not allowed to see guests.
        """
        caller.require(Right.MANAGE)
        return self.statuses()

    def statuses(self) -> tuple[GuestStatus, ...]:
        """Return the status of every connected guest, for a caller whose right is checked."""
        return tuple(guest.status for guest in self._guests.values())

    async def disconnect(self, caller: Caller, guest_id: str) -> GuestStatus:
        """Close the connection of a guest, and return its last status.

        Args:
            guest_id: id of the guest, or of its last recorded appraisal.

        Raises:
            NotAuthorized: the caller is not allowed to disconnect guests.
            NotFound: no guest with this id is connected.
            StorageError: the request cannot be recorded; the guest stays connected.
        """
        caller.require(Right.MANAGE)
        status = status_of(guest_id, self.statuses())
        await self._events.commit(disconnected_by(caller, status))
        self.close(status.id)
        return status

    def close(self, guest_id: str) -> None:
        """Close the connection of a guest, which is recorded already; it may have ended."""
        guest = self._guests.get(guest_id)
        if guest is not None:
            self.forget(guest)
            guest.disconnect()

    async def record_refusal(self, status: GuestStatus) -> None:
        """Record that the broker closes the connection of a guest, because it is refused now."""
        try:
            await self._events.commit(_disconnected(status, f"refused: {status.code}"))
        except StorageError as error:  # nothing is disclosed to the guest
            self._events.record(WarningAudit(reason=str(error)))

    def forget(self, guest: ConnectedGuest) -> None:
        """Remove a guest whose connection has ended or is being closed."""
        if self._guests.pop(guest.id, None) is not None and guest.evidence is not None:
            self._endorsements.release(guest.evidence.endorsements)

    async def basis(self, tee: str) -> Basis:
        """Return the revisions on which an appraisal that begins now depends."""
        changes = self._changes.count
        try:
            return Basis(changes, await self._documents.revision(tee))
        except VerdictdError as error:  # the appraisal reports it
            return Basis(changes, str(error))


def status_of(guest_id: str, statuses: tuple[GuestStatus, ...]) -> GuestStatus:
    """Return the status of a guest by its id, or by the id of its last recorded appraisal.

    Raises:
        NotFound: no guest with this id is connected.
    """
    for status in statuses:
        if guest_id in (status.id, status.appraisal):
            return status
    raise NotFound("no guest with this id is connected; see verdict-py guest list connected")


def disconnected_by(caller: Caller, status: GuestStatus) -> GuestDisconnected:
    """Return the event of a guest that an operator disconnects."""
    return _disconnected(status, "requested by an operator", caller)


def _disconnected(
    status: GuestStatus, reason: str, caller: Caller | None = None
) -> GuestDisconnected:
    return GuestDisconnected(
        peer=status.address,
        guest=status.id,
        appraisal=status.appraisal,
        caller=None if caller is None else caller.name,
        reason=reason,
    )
