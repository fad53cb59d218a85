"""Appraisal of presented evidence: the guest is accepted, or refused with every reason."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Final
from uuid import uuid4

from verdictd_py.broker.history import History, JudgementSink
from verdictd_py.broker.judgement import Judgement
from verdictd_py.broker.presentations import Presentations
from verdictd_py.broker.sources import Sources
from verdictd_py.domain.appraisal import Appraisal, DecidedBy
from verdictd_py.domain.correlation import extended
from verdictd_py.domain.events import (
    GuestAccepted,
    GuestNotJudged,
    GuestRefused,
    WarningAudit,
    WarningBug,
)
from verdictd_py.domain.evidence import (
    DEVICES,
    NO_TEE,
    Evidence,
    InitData,
    RefusedEvidence,
    VerifiedEvidence,
)
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AppraisalTimeout,
    AttestationError,
    AuditUnavailable,
    BindingMismatch,
    EventLogRefused,
    EvidenceFormat,
    InitDataRefused,
    InternalError,
    NotAppraised,
    PolicyRefused,
    Reason,
    ReasonKind,
    StorageError,
    TcbStatusRefused,
    VerdictdError,
)
from verdictd_py.formats import eventlog, initdata
from verdictd_py.offload import offload
from verdictd_py.ports import AppraisalPolicy, Events, Tee, Tees, Verifier
from verdictd_py.stages import Stage, measured

EvidenceReader = Callable[[datetime], Evidence]
"""Reads the evidence that a transport carried, as of a time; raises `AttestationError`."""


@dataclass(slots=True)
class _Progress:
    """Everything known about a guest so far, so that a refusal at any step reports it."""

    tee: str | None = None
    form: str = ""
    bound: bool = False
    verified: VerifiedEvidence | None = None
    presented: Evidence | None = None
    policy_skipped: bool = False
    decided_by: DecidedBy | None = None


class Appraiser:
    """Appraiser of evidence of any transport.

    Args:
        verifiers: one for each TEE that is served, by the TEE's name.
        tees: the known TEEs, at least those that are served.
        policy: decides about verified claims.
        clock: returns now, with a time zone.
        events: records every appraisal of a peer.
        history: stores appraisals for operators.
        insecure_accept_anyone: every peer is accepted, with or without evidence, and
            no policy is evaluated (`nullverifier`).
        allow_unlogged: whether guests may extend some registers at run time without log entries.
        seconds: time limit for one appraisal, fetching collateral included; None for no limit. It
            may be changed while guests are appraised.
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
        history: JudgementSink | None = None,
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
        self._history: JudgementSink = history or History()
        self._insecure_accept_anyone = insecure_accept_anyone
        self._allow_unlogged = allow_unlogged
        self.seconds = seconds
        self._trust = trust
        self._sources = Sources()
        self._presentations = Presentations()

    @property
    def tees(self) -> Tees:
        """The known TEEs, for the readers of evidence."""
        return self._tees

    def serves(self, tee: str) -> bool:
        """Return whether evidence of this TEE could be accepted."""
        return self._insecure_accept_anyone or tee in self._verifiers

    async def admit(self, read: EvidenceReader, *, address: str) -> Appraisal:
        """Appraise the peer at `address` and record the result.

        Returns:
            The appraisal. `AppraisedPeer.of` makes a peer of it if the guest is accepted;
            only code and id are disclosed to a refused guest.

        Raises:
            NotAppraised: the guest cannot be appraised now; this is recorded too.
        """
        try:
            if self._insecure_accept_anyone:
                appraisal = Appraisal(
                    extended(uuid4().hex),
                    self._clock(),
                    NO_TEE,
                    "none",
                    None,
                    bound=True,
                    refusal=None,
                )
            else:
                appraisal = await self.assess(read)
            await self.record_appraised(appraisal, address)
        except NotAppraised as error:
            error.record = await self.record_not_appraised(error, address)
            raise
        return appraisal

    def is_bound(self, evidence: Evidence) -> bool:
        """Return whether evidence of a TEE that is served names the peer's key.

        Nothing is verified here. This distinguishes evidence that cannot be verified now from
        bytes that any client can send.
        """
        tee = self._tees.get(evidence.tee)
        if tee is None or tee.report_data is None or evidence.tee not in self._verifiers:
            return False
        try:
            return _is_bound(evidence, tee.report_data(evidence.quote))
        except AttestationError:
            return False

    async def assess(self, read: EvidenceReader) -> Appraisal:
        """Appraise a guest within the time limit, and rate its trust; record no result.

        Raises:
            NotAppraised: the guest cannot be appraised now. Every exception that is not a verdict
                is translated to this error, so that no internal error is reported as a verdict.
        """
        try:
            appraisal = await self._appraise_in_time(read)
            if appraisal.accepted and appraisal.evidence is not None and self._trust is not None:
                appraisal = replace(appraisal, trust=await self._trust(appraisal.evidence))
        except NotAppraised:
            raise
        except Exception as error:
            raise self._internal(error) from error
        return appraisal

    def _internal(self, error: Exception) -> InternalError:
        """Return the error for an exception that is not a verdict; record an unexpected one."""
        if isinstance(error, VerdictdError):
            return InternalError(str(error))
        if isinstance(error, OSError) and error.strerror:  # without the path
            return InternalError(f"{error.strerror.lower()}: check this host's limits and disks")
        incident = extended(uuid4().hex)
        self._events.record(WarningBug.of(error, doing="appraise a guest", incident=incident))
        return InternalError(f"internal error {incident}; report the event warning.bug")

    async def _appraise_in_time(self, read: EvidenceReader) -> Appraisal:
        try:
            async with asyncio.timeout(self.seconds):
                return await self.appraise(read)
        except TimeoutError:
            raise AppraisalTimeout(f"appraisal took longer than {self.seconds} s") from None

    async def appraise(self, read: EvidenceReader) -> Appraisal:
        """Appraise the evidence that `read` returns, now.

        1. Read the evidence. 2. Find the verifier of its TEE. 3. Verify signature, chain,
        revocation and collateral. 4. Check that REPORTDATA begins with the binding to the peer's
        key. 5. If the guest sent an event log or init-data, replay the log and compare the
        digest. 6. Refuse a guest with faults, which no policy can accept. 7. Evaluate the policy.
        A guest that step 6 refuses costs no evaluation, because it could repeat that at any rate.
        `explanation` evaluates the policy for it when an operator requests that.

        Returns:
            The appraisal, with the verified claims and every fault, or every rule of the policy
            that failed.

        Raises:
            NotAppraised: the evidence cannot be appraised now.
        """
        now = self._clock()
        known = _Progress()
        refusal: AttestationError | None = None
        try:
            await self._require_acceptable(read, now, known)
        except AttestationError as error:
            refusal = error
        return Appraisal(
            extended(uuid4().hex),
            now,
            known.tee,
            known.form,
            known.verified,
            bound=known.bound,
            refusal=refusal,
            policy_skipped=known.policy_skipped,
            decided_by=known.decided_by,
            presented=known.presented,
        )

    async def _require_acceptable(
        self, read: EvidenceReader, now: datetime, known: _Progress
    ) -> None:
        """Take the steps of `appraise`, and enter the result of each step into `known`.

        Raises:
            AttestationError: the guest is refused.
            NotAppraised: the guest cannot be appraised now.
        """
        with measured(Stage.EVIDENCE):
            evidence = read(now)  # 1
        known.presented = evidence
        known.tee, known.form = evidence.tee, evidence.form
        verifier = self._verifiers.get(evidence.tee)  # 2
        if verifier is None:
            served = ", ".join(sorted(self._verifiers)) or "nothing"
            raise EvidenceFormat(
                f"evidence of {evidence.tee} is not served here (served: {served})"
            )
        with measured(Stage.VERIFICATION):
            result = await verifier.verify(evidence, now=now)  # 3
        if isinstance(result, RefusedEvidence):
            known.verified = result.verified
            raise result.refusal
        known.verified = result
        known.bound = _check_binding(evidence, result)  # 4
        add = partial(self._with_surroundings, evidence, result)
        with measured(Stage.EVIDENCE):
            known.verified = verified = await offload(_surroundings_bytes(evidence), add)  # 5
        if verified.faults:  # 6
            known.policy_skipped = True
            raise _refusal(verified.faults)
        with measured(Stage.POLICY):
            failures = await self._policy.failures(verified.tee, verified.claims)  # 7
        known.decided_by = failures.decided_by
        if failures:
            raise PolicyRefused(_refused_by_policy(failures), reasons=failures)

    def _with_surroundings(
        self, evidence: Evidence, verified: VerifiedEvidence
    ) -> VerifiedEvidence:
        """Add the claims of event log, init-data and further devices, and their faults.

        A TCB that the vendor revoked is a fault as well.
        """
        tee = self._tees.get(verified.tee)
        if tee is not None and all(f.kind is not ReasonKind.TCB for f in verified.faults):
            revoked = tee.revoked(verified.claims)
            if revoked:
                verified = replace(verified, faults=verified.faults + revoked)
        if evidence.event_log is not None:
            verified = _with_event_log(
                tee, verified, evidence.event_log, allow_unlogged=self._allow_unlogged
            )
        if evidence.init_data is not None or (tee is not None and tee.init_data is not None):
            verified = _with_init_data(tee, verified, evidence.init_data)
        if evidence.devices:
            devices: JsonValue = list(evidence.devices)
            verified = replace(verified, claims={**verified.claims, DEVICES: devices})
        return verified

    async def record_not_appraised(self, error: NotAppraised, address: str) -> str:
        """Record that a guest could not be appraised, and return the id of the record."""
        judgement = Judgement.not_appraised(
            error, judgement_id=extended(uuid4().hex), at=self._clock(), address=address
        )
        self._history.remember(judgement)
        try:
            await self._events.commit(
                GuestNotJudged(
                    peer=address, appraisal=judgement.id, code=error.code, reason=str(error)
                )
            )
        except StorageError as failure:  # the guest learns only that there is no verdict
            self._events.record(WarningAudit(reason=str(failure)))
        return judgement.id

    async def record_appraised(self, appraisal: Appraisal, address: str) -> None:
        """Record the result of an appraisal in log, audit trail and history.

        Raises:
            AuditUnavailable: the audit trail cannot be written; nothing is recorded then.
        """
        evidence, decided_by = appraisal.evidence, appraisal.decided_by
        result: type[GuestAccepted | GuestRefused]
        result = GuestAccepted if appraisal.accepted else GuestRefused
        new = self._sources.new(appraisal)
        try:
            await self._events.commit(
                *new.events,
                result(
                    peer=address,
                    appraisal=appraisal.id,
                    code=appraisal.code,
                    tee=appraisal.tee,
                    form=appraisal.form,
                    tcb_status=None if evidence is None else evidence.tcb_status,
                    evidence=None if evidence is None else evidence.digest,
                    reasons=tuple(reason.text for reason in appraisal.reasons),
                    policy=None if decided_by is None else decided_by.policy,
                    reference=None if decided_by is None else decided_by.data,
                    collateral=None if evidence is None else evidence.collateral,
                ),
            )
        except StorageError as error:
            raise AuditUnavailable(str(error)) from error
        self._sources.note(new)
        judgement = Judgement.of(appraisal, address, self._tees.measurements(appraisal.tee))
        self._history.remember(self._presentations.reduced(judgement))


def _surroundings_bytes(evidence: Evidence) -> int:
    """Return the length of the event log and the init-data."""
    log = 0 if evidence.event_log is None else len(evidence.event_log)
    return log + (0 if evidence.init_data is None else len(evidence.init_data.body))


def _is_bound(evidence: Evidence, report_data: bytes) -> bool:
    if evidence.binding is None:
        return False
    spellings = (evidence.binding, *evidence.other_bindings)
    return all(spellings) and any(map(report_data.startswith, spellings))


def _check_binding(evidence: Evidence, verified: VerifiedEvidence) -> bool:
    """Return True if the evidence is bound to a channel, False if there is no channel.

    Raises:
        BindingMismatch: the evidence is bound to another channel.
    """
    if evidence.binding is None:
        return False
    if not _is_bound(evidence, verified.report_data):
        spellings = (evidence.binding, *evidence.other_bindings)
        measured = verified.report_data[: len(evidence.binding)].hex()
        expected = " or ".join(spelling.hex() for spelling in spellings)
        raise BindingMismatch(
            "the evidence is not bound to the peer's key",
            reasons=(
                Reason(
                    "reportData",
                    measured,
                    expected,
                    f"reportData: measured {measured}, expected to begin with {expected}: "
                    "the evidence was made for another key or another challenge",
                    kind=ReasonKind.BINDING,
                ),
            ),
        )
    return True


def _with_event_log(
    tee: Tee | None, verified: VerifiedEvidence, data: bytes, *, allow_unlogged: bool
) -> VerifiedEvidence:
    """Add claims about the events that the registers prove, and a fault for each mismatch.

    Raises:
        EvidenceFormat: the log cannot be read, or the TEE has no registers that a log extends.
    """
    registers = None if tee is None else tee.event_log
    if tee is None or registers is None:
        raise EvidenceFormat(f"an event log of {verified.tee} is not served here")
    log = eventlog.parse(data, registers.claims)
    measured = {name: _measured(tee, verified, name) for name in registers.claims}
    unlogged = registers.extended_later if allow_unlogged else ()
    return replace(
        verified,
        claims={**verified.claims, eventlog.RULE: log.proved_by(measured).claims()},
        faults=verified.faults + log.mismatches(measured, unlogged=unlogged),
    )


def _measured(tee: Tee, verified: VerifiedEvidence, name: str) -> bytes:
    """Return the bytes that a claim encodes; empty if the guest does not have the claim."""
    bytes_of, value = tee.claims[name].form.bytes_of, verified.claims.get(name)
    return bytes_of(value) if bytes_of is not None and isinstance(value, str) else b""


def _with_init_data(
    tee: Tee | None, verified: VerifiedEvidence, init_data: InitData | None
) -> VerifiedEvidence:
    """Add the content of the init-data as a claim; null and a fault if the digest differs.

    Raises:
        EvidenceFormat: the init-data cannot be read, or the TEE does not measure it.
    """
    if init_data is None:
        return replace(verified, claims={**verified.claims, initdata.CLAIM: None})
    binding = None if tee is None else tee.init_data
    if tee is None or binding is None:
        raise EvidenceFormat(f"init-data of {verified.tee} is not served here")
    document = initdata.parse(init_data)
    faults: tuple[Reason, ...] = ()
    if binding.claim is not None:  # otherwise nothing that the guest sends is proved
        measured = _measured(tee, verified, binding.claim)
        faults = document.mismatches(binding.claim, measured, binding.size)
    claim = None if faults else dict(document.content)
    return replace(
        verified,
        claims={**verified.claims, initdata.CLAIM: claim},
        faults=verified.faults + faults,
    )


def _refusal(faults: tuple[Reason, ...]) -> AttestationError:
    """Return the error of the kind of the faults, or `PolicyRefused` if they differ in kind."""
    kinds = {fault.kind for fault in faults}
    refusal = _REFUSALS.get(kinds.pop()) if len(kinds) == 1 else None
    if refusal is not None:
        return refusal(f"refused: {_rules(faults)}", reasons=faults)
    return PolicyRefused(_refused_by_policy(faults), reasons=faults)


def _refused_by_policy(reasons: tuple[Reason, ...]) -> str:
    return f"refused by policy: {_rules(reasons)}"


def _rules(reasons: tuple[Reason, ...]) -> str:
    return ", ".join(reason.rule for reason in reasons)


_REFUSALS: Final[Mapping[ReasonKind, type[AttestationError]]] = {
    error.kind: error for error in (EventLogRefused, InitDataRefused, TcbStatusRefused)
}
"""Errors for refusals whose faults are all of one kind, by kind."""
