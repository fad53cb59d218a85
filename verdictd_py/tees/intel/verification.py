"""What verifying a quote of SGX and of TDX have in common: everything but the claims."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    AttestationError,
    CollateralExpired,
    CollateralUnavailable,
    EvidenceFormat,
    QuoteInvalid,
    Reason,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.check import check_fit, ends_at, verify_texts
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.collateral.sources import EvaluationFloor
from verdictd_py.tees.intel.dcap import CollateralRejected, Rated, RefusedLate, judge
from verdictd_py.tees.intel.pck import (
    Platform,
    root_key_digest,
    verify_pck_chain,
    verify_quote_signatures,
)
from verdictd_py.tees.intel.quote import Quote, parse_quote
from verdictd_py.tees.intel.tcb import REVOKED, TcbVerdict, behind_days, evaluation_number, rate


@dataclass(frozen=True, slots=True)
class Finding:
    """A quote whose signatures are verified.

    Attributes:
        tcb: Intel's rating; None where it could not be told, then `refused` is set.
        behind_days: days since a newer TCB came out, None where it could not be told.
        refused: why it is refused whatever the policy says, None where it is not.
        error: what did not verify beside the quote's own signatures, None where all did.
    """

    platform: Platform
    tcb: TcbVerdict | None
    refused: RefusedLate | None = None
    error: AttestationError | None = None
    behind_days: int | None = None

    def evidence(
        self,
        quote: Quote,
        *,
        report_data: bytes,
        claims: dict[str, JsonValue],
        faults: tuple[Reason, ...],
    ) -> VerifiedEvidence:
        """The verifier's result, if all verified: `claims` with those that the chain adds.

        Raises:
            AttestationError: not all did; the result travels with it, for the operator.
        """
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
        if self.error is not None:
            self.error.verified = verified
            raise self.error
        return verified

    def _faults(self, found: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """`found` with what only the TCB check or the library refuses."""
        if self.tcb is not None and self.tcb.status == REVOKED:
            text = "tcbStatus: Intel has revoked this TCB"
            found = (*found, Reason("tcbStatus", REVOKED, "a TCB that is not revoked", text))
        late = self.refused
        if late is not None and all(reason.rule != late.rule for reason in found):
            found = (*found, Reason(late.rule, "", "", f"{late.rule}: {late.text}"))
        return found


def _behind_days(collateral: Collateral, finding: Finding, now: datetime) -> int | None:
    if finding.tcb is None:
        return None
    try:
        return behind_days(collateral, finding.tcb, now)
    except ValueError:
        return None


def parse_evidence(evidence: Evidence, tee: str) -> Quote:
    """The quote in `evidence`, which must be of the TEE that a verifier serves.

    Raises:
        EvidenceFormat: it is not, or cannot be read.
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
        source: where collateral comes from.
        root_ca_der: trusted root, None for Intel's.
        grace: for so long after its end collateral of the operator's is used as it was a
            moment before; what a guest chose has none.
        minimum_evaluation: lowest `tcbEvaluationDataNumber` of any collateral, whoever has it.

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
    ) -> None:
        self._source = source
        self._root_ca_der = root_ca_der
        self._root_key = root_key_digest(root_ca_der)
        self._floor = EvaluationFloor()
        self._grace = grace
        self._minimum_evaluation = minimum_evaluation

    async def verify(self, quote: Quote, endorsements: object | None, now: datetime) -> Finding:
        """Verifies signatures, chain, revocation and TCB.

        1. The PCK chain in the quote leads to the root: only then is its FMSPC believed.
        2. The PCK, through the quoting enclave, signed this quote: its claims are
           authentic from here on, and only now may collateral be fetched.
        3. Collateral from the source, the best first.
        4. Each is tried until one holds. One that is expired or not signed makes room for
           the next; a revocation does not, older collateral would not know of it.
        5. What a guest brought along must not be older than collateral seen before.

        Returns:
            What was found; with `error` set where step 4 or 5 refused.

        Raises:
            AttestationError: steps 1 or 2 refused: nothing of the quote is authentic.
            CollateralUnavailable: there is no collateral now.
        """
        # 1.
        platform = verify_pck_chain(quote.pck_chain, root_key=self._root_key, now=now)
        # 2.
        verify_quote_signatures(quote, platform)
        # 3.
        if endorsements is not None and not isinstance(endorsements, Collateral):
            raise TypeError("the endorsements of an Intel quote are collateral")
        request = CollateralRequest(tee=quote.tee, fmspc=platform.fmspc, ca=platform.ca)
        candidates = await self._source.candidates(request, endorsements)
        if not candidates:
            raise CollateralUnavailable("there is no collateral for this platform now")
        try:
            return self._first_that_holds(quote, platform, candidates, endorsements, now)
        except AttestationError as error:
            return Finding(platform, self._rated(quote, platform, candidates[0], now), error=error)

    def _first_that_holds(
        self,
        quote: Quote,
        platform: Platform,
        candidates: tuple[Collateral, ...],
        endorsements: Collateral | None,
        now: datetime,
    ) -> Finding:
        """Steps 4 and 5."""
        request = CollateralRequest(tee=quote.tee, fmspc=platform.fmspc, ca=platform.ca)
        errors: list[AttestationError] = []
        for collateral in candidates:
            chosen_by_guest = collateral is endorsements
            when = now if chosen_by_guest else self._within_grace(collateral, now)
            try:
                self._require_recent(collateral)
                finding = self._judge(quote, platform, collateral, when)
            except (CollateralExpired, CollateralRejected) as error:
                errors.append(error)
                continue
            self._floor.check(
                request, evaluation_number(collateral), chosen_by_guest=chosen_by_guest
            )
            return replace(finding, behind_days=_behind_days(collateral, finding, now))
        raise errors[0]

    def _require_recent(self, collateral: Collateral) -> None:
        """Refuses collateral of before the TCB recovery that the operator asks for."""
        if not self._minimum_evaluation:
            return
        try:
            number = evaluation_number(collateral)
        except ValueError:
            number = 0
        if number < self._minimum_evaluation:
            text = "the collateral is of before the TCB recovery that is asked for"
            expected = f"at least {self._minimum_evaluation}"
            reason = Reason("tcb-info", str(number), expected, f"{text}: {number}, {expected}")
            raise CollateralRejected(text, reasons=(reason,))

    def _within_grace(self, collateral: Collateral, now: datetime) -> datetime:
        """When to judge with it: dcap-qvl knows no grace, only another time."""
        if not self._grace:
            return now
        try:
            last = ends_at(collateral) - timedelta(seconds=1)
        except ValueError:
            return now
        return last if last < now <= last + self._grace else now

    def _judge(
        self, quote: Quote, platform: Platform, collateral: Collateral, now: datetime
    ) -> Finding:
        """Judges the quote with one set of collateral."""
        verdict = judge(quote.raw, collateral, now=now, root_ca_der=self._root_ca_der)
        if isinstance(verdict, Rated):
            if verdict.fmspc != platform.fmspc:
                text = "the quote's FMSPC reads differently in two libraries"
                reason = Reason("fmspc", verdict.fmspc, platform.fmspc, text)
                raise QuoteInvalid("the quote does not verify", reasons=(reason,))
            check_fit(collateral, platform.pce_id)
            return Finding(platform, verdict.tcb)
        # The library refused for what the quote says and does not rate the platform. So the
        # texts that do are verified here, and in no order of the library's.
        verify_texts(collateral, root_key=self._root_key, now=now)
        check_fit(collateral, platform.pce_id)
        return Finding(platform, rate(quote, platform, collateral), verdict)

    def _rated(
        self, quote: Quote, platform: Platform, collateral: Collateral, now: datetime
    ) -> TcbVerdict | None:
        """Intel's rating for a refusal's report, from texts that are signed but may be old."""
        try:
            verify_texts(collateral, root_key=self._root_key, now=now)
        except AttestationError:
            return None
        return rate(quote, platform, collateral)
