"""Turns presented evidence into an `AppraisedPeer`, or refuses and says why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import uuid4

from verdictd_py.broker.history import History, Judgement
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.events import GuestAccepted, GuestNotJudged, GuestRefused
from verdictd_py.domain.evidence import DEVICES, NO_TEE, Evidence, InitData, VerifiedEvidence
from verdictd_py.domain.trust import TrustVector
from verdictd_py.errors import (
    AppraisalTimeout,
    AttestationError,
    BindingMismatch,
    EventLogRefused,
    EvidenceFormat,
    InitDataRefused,
    NotJudged,
    PolicyRefused,
    Reason,
    TcbStatusRefused,
)
from verdictd_py.formats import eventlog, initdata
from verdictd_py.ports import AppraisalPolicy, Events, Tee, Tees, Verifier

Reading = Callable[[datetime], Evidence]
"""Reads evidence out of what a transport carried it in; raises `AttestationError`."""


class Appraiser:
    """Judges evidence of any transport.

    Args:
        verifiers: one for each TEE that is served, by its name.
        tees: those that are known, at least those that are served.
        policy: decides about verified claims.
        clock: now, with a time zone.
        events: told of every judgement made for a peer.
        history: remembers them for operators.
        insecure_accept_anyone: every peer is accepted, with or without evidence, and
            no policy is asked (`nullverifier`).
        allow_unlogged: whether guests may extend some registers at run time without log entries.
        seconds: what judging one peer may take, collateral fetched meanwhile; None for ever.
        trust: rates a guest that was accepted; None for an appraiser that admits no peers.
    """

    def __init__(  # noqa: PLR0913  # its collaborators, all by keyword
        self,
        *,
        verifiers: Mapping[str, Verifier],
        tees: Tees,
        policy: AppraisalPolicy,
        clock: Callable[[], datetime],
        events: Events,
        history: History | None = None,
        insecure_accept_anyone: bool = False,
        allow_unlogged: bool = False,
        seconds: float | None = None,
        trust: Callable[[VerifiedEvidence], Awaitable[TrustVector]] | None = None,
    ) -> None:
        self._verifiers = verifiers
        self._tees = tees
        self._policy = policy
        self._clock = clock
        self._events = events
        self._history = history or History()
        self._insecure_accept_anyone = insecure_accept_anyone
        self._allow_unlogged = allow_unlogged
        self._seconds = seconds
        self._trust = trust

    @property
    def tees(self) -> Tees:
        """The TEEs that are known, for the readers of evidence."""
        return self._tees

    def serves(self, tee: str) -> bool:
        """Whether evidence of this TEE could be accepted."""
        return self._insecure_accept_anyone or tee in self._verifiers

    async def admit(self, read: Reading, *, address: str) -> Appraisal:
        """Judges the peer at `address` and records the verdict, whichever it is.

        Returns:
            The verdict. `AppraisedPeer.of` makes a peer of it if it is an acceptance;
            a refused peer is told its code and its id, nothing else.

        Raises:
            NotJudged: it cannot be judged now; recorded too.
        """
        if self._insecure_accept_anyone:
            appraisal = Appraisal(
                uuid4().hex, self._clock(), NO_TEE, "none", None, bound=True, refusal=None
            )
        else:
            try:
                appraisal = await self._judge_in_time(read)
            except NotJudged as error:
                self._record_unjudged(error, address)
                raise
            if appraisal.accepted and appraisal.evidence is not None and self._trust is not None:
                appraisal = replace(appraisal, trust=await self._trust(appraisal.evidence))
        self._record(appraisal, address)
        return appraisal

    async def _judge_in_time(self, read: Reading) -> Appraisal:
        try:
            async with asyncio.timeout(self._seconds):
                return await self.judge(read)
        except TimeoutError:
            raise AppraisalTimeout(f"appraisal took longer than {self._seconds} s") from None

    async def judge(self, read: Reading) -> Appraisal:
        """Judges what `read` reads, now.

        1. Read the evidence. 2. Find the verifier of its TEE. 3. Verify signature,
        chain, revocation and collateral. 4. Check that REPORTDATA begins with what
        binds the peer's key. 5. Replay the event log, and compare the init-data's digest,
        if there are any. 6. Refuse what the verifier and these refuse under any policy.
        7. Ask the policy, also then: a refusal names every failed rule.

        Returns:
            The verdict, with every failed rule and whatever claims were verified.

        Raises:
            CollateralUnavailable: it cannot be judged now.
        """
        now = self._clock()
        tee: str | None = None
        form = ""
        bound = False
        found: VerifiedEvidence | None = None
        refusal: AttestationError | None = None
        try:
            evidence = read(now)  # 1
            tee, form = evidence.tee, evidence.form
            verifier = self._verifiers.get(tee)  # 2
            if verifier is None:
                served = ", ".join(sorted(self._verifiers)) or "nothing"
                raise EvidenceFormat(f"evidence of {tee} is not served here (served: {served})")
            found = await verifier.verify(evidence, now=now)  # 3
            bound = _check_binding(evidence, found)  # 4
            found = self._with_surroundings(evidence, found)  # 5
            failures = await self._policy.failures(found.tee, found.claims)
            if found.faults or failures:  # 6, 7
                raise _refusal(self._tees.get(found.tee), found, failures)
        except AttestationError as error:
            refusal = error
            if isinstance(error.verified, VerifiedEvidence):
                found = error.verified
        return Appraisal(uuid4().hex, now, tee, form, found, bound=bound, refusal=refusal)

    def _with_surroundings(self, evidence: Evidence, found: VerifiedEvidence) -> VerifiedEvidence:
        """The claims with what comes beside the quote: event log, init-data, further devices."""
        tee = self._tees.get(found.tee)
        if evidence.event_log is not None:
            found = _with_event_log(
                tee, found, evidence.event_log, allow_unlogged=self._allow_unlogged
            )
        if evidence.init_data is not None or (tee is not None and tee.init_data is not None):
            found = _with_init_data(tee, found, evidence.init_data)
        if evidence.devices:
            found = replace(found, claims={**found.claims, DEVICES: list(evidence.devices)})
        return found

    def _record_unjudged(self, error: NotJudged, address: str) -> None:
        judgement = Judgement.not_judged(
            error, judgement_id=uuid4().hex, at=self._clock(), address=address
        )
        self._events.record(
            GuestNotJudged(peer=address, appraisal=judgement.id, code=error.code, reason=str(error))
        )
        self._history.remember(judgement)

    def _record(self, appraisal: Appraisal, address: str) -> None:
        evidence = appraisal.evidence
        result: type[GuestAccepted | GuestRefused]
        result = GuestAccepted if appraisal.accepted else GuestRefused
        self._events.record(
            result(
                peer=address,
                appraisal=appraisal.id,
                code=appraisal.code,
                tee=appraisal.tee,
                form=appraisal.form,
                tcb_status=None if evidence is None else evidence.tcb_status,
                evidence=None if evidence is None else evidence.digest,
                reasons=tuple(reason.text for reason in appraisal.reasons),
            )
        )
        self._history.remember(
            Judgement.of(appraisal, address, self._tees.measurements(appraisal.tee))
        )


def _check_binding(evidence: Evidence, found: VerifiedEvidence) -> bool:
    """True where the evidence is bound to a channel, False where there is none to bind to."""
    if evidence.binding is None:
        return False
    spellings = (evidence.binding, *evidence.other_bindings)
    if not all(spellings) or not any(map(found.report_data.startswith, spellings)):
        measured = found.report_data[: len(evidence.binding)].hex()
        expected = " or ".join(spelling.hex() for spelling in spellings)
        raise BindingMismatch(
            "the evidence does not vouch for the peer's key",
            reasons=(
                Reason(
                    "reportData",
                    measured,
                    expected,
                    f"reportData: measured {measured}, expected to begin with {expected}: "
                    "the evidence was made for another key or another challenge",
                ),
            ),
        )
    return True


def _with_event_log(
    tee: Tee | None, found: VerifiedEvidence, data: bytes, *, allow_unlogged: bool
) -> VerifiedEvidence:
    """Return the claims with what the log proves, and a fault for everything that it does not.

    Raises:
        EvidenceFormat: it is no log, or of a TEE whose registers it does not extend.
    """
    registers = None if tee is None else tee.event_log
    if tee is None or registers is None:
        raise EvidenceFormat(f"an event log of {found.tee} is not served here")
    log = eventlog.parse(data, registers.claims)
    measured = {name: _measured(tee, found, name) for name in registers.claims}
    unlogged = registers.extended_later if allow_unlogged else ()
    return replace(
        found,
        claims={**found.claims, eventlog.RULE: log.proved_by(measured).claims()},
        faults=found.faults + log.mismatches(measured, unlogged=unlogged),
    )


def _measured(tee: Tee, found: VerifiedEvidence, name: str) -> bytes:
    """Return the bytes that a claim stands for; none where the guest does not have the claim."""
    bytes_of, value = tee.claims[name].form.bytes_of, found.claims.get(name)
    return bytes_of(value) if bytes_of is not None and isinstance(value, str) else b""


def _with_init_data(
    tee: Tee | None, found: VerifiedEvidence, shown_by_guest: InitData | None
) -> VerifiedEvidence:
    """Return the claims with what the init-data says, or none and a fault for another's.

    Raises:
        EvidenceFormat: it cannot be read, or is of a TEE that does not measure it.
    """
    if shown_by_guest is None:
        return replace(found, claims={**found.claims, initdata.CLAIM: None})
    binding = None if tee is None else tee.init_data
    if tee is None or binding is None:
        raise EvidenceFormat(f"init-data of {found.tee} is not served here")
    document = initdata.parse(shown_by_guest)
    faults: tuple[Reason, ...] = ()
    if binding.claim is not None:  # otherwise the guest proves nothing, its init-data included
        measured = _measured(tee, found, binding.claim)
        faults = document.mismatches(binding.claim, measured, binding.size)
    claim = None if faults else dict(document.content)
    return replace(
        found,
        claims={**found.claims, initdata.CLAIM: claim},
        faults=found.faults + faults,
    )


def _refusal(
    tee: Tee | None, found: VerifiedEvidence, failures: tuple[Reason, ...]
) -> AttestationError:
    """Return a refusal with every failed rule once: the verifier's faults, then the policy's."""
    faulty = {fault.rule for fault in found.faults}
    reasons = found.faults + tuple(f for f in failures if f.rule not in faulty)
    rules = ", ".join(reason.rule for reason in reasons)
    refusals = dict(_REFUSALS)
    if tee is not None and tee.tcb is not None:
        refusals[tee.tcb.claim] = TcbStatusRefused
    kind = refusals.get(next(iter(faulty))) if len(faulty) == 1 else None
    if kind is not None:
        return kind(f"refused: {rules}", reasons=reasons)
    return PolicyRefused(f"refused by policy: {rules}", reasons=reasons)


_REFUSALS: Final[Mapping[str, type[AttestationError]]] = {
    eventlog.RULE: EventLogRefused,
    initdata.CLAIM: InitDataRefused,
}
"""What it is where one rule that no policy decides has failed."""
