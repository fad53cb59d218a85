"""Verification of quotes, the part that SGX and TDX share: everything but the claims."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from verdictd_py.domain.evidence import (
    Evidence,
    RefusedEvidence,
    VerificationResult,
    VerifiedEvidence,
)
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AttestationError,
    CollateralExpired,
    CollateralUnavailable,
    EvidenceFormat,
    QuoteInvalid,
    Reason,
    ReasonKind,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.check import check_fit, ends_at, issued_at, require_issued
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.collateral.signers import verify_signers
from verdictd_py.tees.intel.dcap import CollateralRejected, Rated, RefusedLate, evaluate_quote
from verdictd_py.tees.intel.pck import (
    Platform,
    root_key_digest,
    verify_pck_chain,
    verify_quote_signatures,
)
from verdictd_py.tees.intel.quote import Quote, parse_quote
from verdictd_py.tees.intel.tcb import REVOKED, TcbVerdict, behind_days, evaluation_number, rate


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """A quote whose own signatures verified.

    Attributes:
        tcb: Intel's rating; None if it is not known, then `late` is set.
        behind_days: days since a newer TCB came out, None if that is not known.
        late: why the library refuses the quote whatever the policy says, None if it does not.
        refusal: why the quote is refused although its signatures verified, None if it is not.
    """

    platform: Platform
    tcb: TcbVerdict | None
    late: RefusedLate | None = None
    refusal: AttestationError | None = None
    behind_days: int | None = None

    def evidence(
        self,
        quote: Quote,
        *,
        report_data: bytes,
        claims: dict[str, JsonValue],
        faults: tuple[Reason, ...],
    ) -> VerificationResult:
        """Return the verifier's result: `claims` and those that chain and TCB info add."""
        claims["fmspc"] = self.platform.fmspc
        if self.tcb is not None:
            claims["tcbStatus"] = self.tcb.status
            claims["advisoryIds"] = list(self.tcb.advisory_ids)
            claims["tcbDate"] = self.tcb.date
        if self.behind_days is not None:
            claims["tcbBehindDays"] = self.behind_days
        verified = VerifiedEvidence(
            tee=quote.tee,
            report_data=report_data,
            claims=claims,
            tcb_status=None if self.tcb is None else self.tcb.status,
            advisory_ids=() if self.tcb is None else self.tcb.advisory_ids,
            digest=quote.digest,
            faults=self._faults(faults),
        )
        return verified if self.refusal is None else RefusedEvidence(self.refusal, verified)

    def _faults(self, faults: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Return the faults with those that only the TCB check or the library reports."""
        if self.tcb is not None and self.tcb.status == REVOKED:
            text = "tcbStatus: Intel has revoked this TCB"
            expected = "a TCB that is not revoked"
            faults = (*faults, Reason("tcbStatus", REVOKED, expected, text, kind=ReasonKind.TCB))
        late = self.late
        if late is not None and all(fault.rule != late.rule for fault in faults):
            text = f"{late.rule}: {late.text}"
            faults = (*faults, Reason(late.rule, "", "", text, kind=late.kind))
        return faults


def _behind_days(collateral: Collateral, tcb: TcbVerdict | None, now: datetime) -> int | None:
    if tcb is None:
        return None
    try:
        return behind_days(collateral, tcb, now)
    except ValueError:
        return None


def parse_evidence(evidence: Evidence, tee: str) -> Quote:
    """Parse the quote in `evidence`, which must be of the TEE that a verifier serves.

    Raises:
        EvidenceFormat: it is of another TEE, or cannot be read.
    """
    quote = parse_quote(evidence.quote)
    if quote.tee != tee or evidence.tee != tee:
        raise EvidenceFormat(
            f"evidence for {evidence.tee} with a quote for {quote.tee} is not served, {tee} is"
        )
    return quote


class IntelEngine:
    """Verifies quotes up to one trusted root.

    Args:
        source: source of collateral.
        root_ca_der: trusted root, None for Intel's.
        grace: how long collateral of the operator is still used after it expired, as it was
            before. Collateral that the guest sent has no grace.
        minimum_evaluation: lowest `tcbEvaluationDataNumber` of collateral from any source.
        newest: newest known copies of all parts; None: only those that this engine has seen.
        refuse_endorsements: whether collateral that the guest sent is never used.

    Raises:
        ConfigError: the root is not a certificate.
    """

    def __init__(
        self,
        source: CollateralSource,
        *,
        root_ca_der: bytes | None,
        grace: timedelta = timedelta(0),
        minimum_evaluation: int = 0,
        newest: NewestCollateral | None = None,
        refuse_endorsements: bool = False,
    ) -> None:
        self._source = source
        self._root_ca_der = root_ca_der
        self._root_key = root_key_digest(root_ca_der)
        self._newest = newest or NewestCollateral(self._root_key)
        self._refuse_endorsements = refuse_endorsements
        self._grace = grace
        self._minimum_evaluation = minimum_evaluation

    async def verify(
        self, quote: Quote, endorsements: object | None, now: datetime
    ) -> VerifiedQuote:
        """Verify signatures, chain, revocation and TCB.

        1. The PCK chain in the quote leads to the root: only then is its FMSPC believed.
        2. The PCK, through the quoting enclave, signed this quote: its claims are
           authentic from here on, and only now may collateral be fetched.
        3. Collateral is fetched from the source, the best first.
        4. Each is tried until one verifies. After one that is expired or not signed, the next
           is tried; after a revocation it is not, because older collateral may lack it.
        5. No part of collateral is older than a copy that any source has sent before: the newest
           copy is used in its place.

        Returns:
            The verified quote, with `refusal` set if step 4 refused.

        Raises:
            AttestationError: steps 1 or 2 refused: nothing in the quote is authentic.
            CollateralUnavailable: there is no collateral now.
        """
        # 1.
        platform = verify_pck_chain(quote.pck_chain, root_key=self._root_key, now=now)
        # 2.
        verify_quote_signatures(quote, platform)
        # 3.
        if endorsements is not None and not isinstance(endorsements, Collateral):
            raise TypeError("the endorsements of an Intel quote are collateral")
        if self._refuse_endorsements:
            endorsements = None
        request = CollateralRequest(tee=quote.tee, fmspc=platform.fmspc, ca=platform.ca)
        candidates = await self._source.candidates(request, endorsements)
        if not candidates:
            raise CollateralUnavailable("there is no collateral for this platform now")
        try:
            return await self._first_that_verifies(quote, platform, candidates, endorsements, now)
        except AttestationError as error:
            tcb = self._rated(quote, platform, candidates[0], now)
            return VerifiedQuote(platform, tcb, refusal=error)

    async def _first_that_verifies(
        self,
        quote: Quote,
        platform: Platform,
        candidates: tuple[Collateral, ...],
        endorsements: Collateral | None,
        now: datetime,
    ) -> VerifiedQuote:
        """Take steps 4 and 5 of `verify`."""
        request = CollateralRequest(tee=quote.tee, fmspc=platform.fmspc, ca=platform.ca)
        errors: list[AttestationError] = []
        for collateral in candidates:
            chosen_by_guest = collateral is endorsements
            try:
                current = await self._current(request, collateral, chosen_by_guest, now)
                self._require_recent(current)
                when = now if chosen_by_guest else self._within_grace(current, now)
                verified = self._evaluate(quote, platform, current, when)
            except (CollateralExpired, CollateralRejected) as error:
                errors.append(error)
                continue
            return replace(verified, behind_days=_behind_days(current, verified.tcb, now))
        raise errors[0]

    async def _current(
        self,
        request: CollateralRequest,
        collateral: Collateral,
        chosen_by_guest: bool,
        now: datetime,
    ) -> Collateral:
        """Verify the signers of collateral, and replace parts that are older than known copies.

        The library does not check which certificates may sign collateral, and whether they are
        revoked.
        """
        try:
            return await self._newest.apply(
                collateral, request, now=now, chosen_by_guest=chosen_by_guest
            )
        except CollateralRejected as error:
            text = "the collateral does not verify for this quote"
            raise CollateralRejected(text, reasons=error.reasons) from error

    def _require_recent(self, collateral: Collateral) -> None:
        """Refuse collateral from before the TCB recovery that the operator requires."""
        if not self._minimum_evaluation:
            return
        try:
            number = evaluation_number(collateral)
        except ValueError:
            number = 0
        if number < self._minimum_evaluation:
            text = "the collateral is of before the TCB recovery that is asked for"
            expected = f"at least {self._minimum_evaluation}"
            explained = f"{text}: {number}, {expected}"
            reason = Reason(
                "tcb-info", str(number), expected, explained, kind=ReasonKind.COLLATERAL
            )
            raise CollateralRejected(text, reasons=(reason,))

    def _within_grace(self, collateral: Collateral, now: datetime) -> datetime:
        """Return the time to evaluate at: dcap-qvl has no grace, only another time."""
        if not self._grace:
            return now
        try:
            last = ends_at(collateral) - timedelta(seconds=1)
        except ValueError:
            return now
        return last if last < now <= last + self._grace else now

    def _evaluate(
        self, quote: Quote, platform: Platform, collateral: Collateral, now: datetime
    ) -> VerifiedQuote:
        """Verify the quote with one set of collateral, whose signatures were verified."""
        now = require_issued(issued_at(collateral), now)
        verify_signers(collateral, platform.ca, self._root_key).require_valid(now)
        verdict = evaluate_quote(quote.raw, collateral, now=now, root_ca_der=self._root_ca_der)
        if isinstance(verdict, Rated):
            if verdict.fmspc != platform.fmspc:
                text = "the quote's FMSPC reads differently in two libraries"
                reason = Reason(
                    "fmspc",
                    verdict.fmspc,
                    platform.fmspc,
                    text,
                    kind=ReasonKind.VERIFICATION,
                )
                raise QuoteInvalid("the quote does not verify", reasons=(reason,))
            check_fit(collateral, platform.pce_id)
            return VerifiedQuote(platform, verdict.tcb)
        # The library refused the content of the quote and does not rate the platform. The
        # signatures of the texts for the rating were verified above.
        check_fit(collateral, platform.pce_id)
        return VerifiedQuote(platform, rate(quote, platform, collateral), verdict)

    def _rated(
        self, quote: Quote, platform: Platform, collateral: Collateral, now: datetime
    ) -> TcbVerdict | None:
        """Return Intel's rating for the report, from texts that are signed but may be old."""
        try:
            signers = verify_signers(collateral, platform.ca, self._root_key)
            signers.require_valid(now)
        except AttestationError:
            return None
        return rate(quote, platform, collateral)
