"""Verification of Intel's quotes, except the claims, which SGX and TDX define."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import lru_cache

from verdictd_py.domain.claims import TCB_BEHIND
from verdictd_py.domain.evidence import (
    Evidence,
    RefusedEvidence,
    VerificationResult,
    VerifiedEvidence,
)
from verdictd_py.domain.tcb import TcbComparison
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
from verdictd_py.stages import Stage, measured
from verdictd_py.tees.intel.behind import Behind, behind
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import check_fit, ends_at, issued_at, require_issued
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.collateral.signers import verify_signers
from verdictd_py.tees.intel.components import compare
from verdictd_py.tees.intel.dcap import (
    CollateralRejected,
    ContentRefusal,
    QuoteRating,
    evaluate_quote,
)
from verdictd_py.tees.intel.pck import Platform, verify_pck_chain, verify_quote_signatures
from verdictd_py.tees.intel.quote import Quote, parse_quote
from verdictd_py.tees.intel.seen import EvaluatedQuotes
from verdictd_py.tees.intel.tcb import (
    REVOKED,
    STATUSES,
    TcbRating,
    behind_days,
    evaluation_number,
    rate,
)


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """A quote whose own signatures verified.

    Attributes:
        tcb: Intel's rating; None if it is not known: then the quote is refused.
        behind: components that are older than the newest TCB.
        components: every component next to the TCB levels, None if that is not known.
        behind_days: days since a newer TCB was published, None if that is not known.
        valid_until: when the collateral expires, its grace period included.
        collateral: digest of the collateral, see `digest_of`.
        content_refusal: why the library refuses the content of the quote whatever the policy
            says, None if it does not.
        refusal: why the quote is refused although its signatures verified, None if it is not.
    """

    platform: Platform
    tcb: TcbRating | None
    content_refusal: ContentRefusal | None = None
    refusal: AttestationError | None = None
    behind: tuple[Behind, ...] = ()
    components: TcbComparison | None = None
    behind_days: int | None = None
    valid_until: datetime | None = None
    collateral: str | None = None

    def evidence(
        self,
        quote: Quote,
        *,
        report_data: bytes,
        claims: dict[str, JsonValue],
        faults: tuple[Reason, ...],
    ) -> VerificationResult:
        """Return the verifier's result: `claims` and the claims from chain and TCB info."""
        claims["fmspc"] = self.platform.fmspc
        if self.tcb is not None:
            claims["tcbStatus"] = self.tcb.status
            claims["advisoryIds"] = list(self.tcb.advisory_ids)
            claims["tcbDate"] = self.tcb.date
        if self.behind_days is not None:
            claims["tcbBehindDays"] = self.behind_days
        if self.behind:
            claims[TCB_BEHIND] = [str(component) for component in self.behind]
        verified = VerifiedEvidence(
            tee=quote.tee,
            report_data=report_data,
            claims=claims,
            tcb_status=None if self.tcb is None else self.tcb.status,
            advisory_ids=() if self.tcb is None else self.tcb.advisory_ids,
            digest=quote.digest,
            faults=self._faults(faults),
            valid_until=self.valid_until,
            platform=self.platform.digest or None,
            collateral=self.collateral,
            tcb=self.components,
        )
        return verified if self.refusal is None else RefusedEvidence(self.refusal, verified)

    def _faults(self, faults: tuple[Reason, ...]) -> tuple[Reason, ...]:
        """Return the faults with further ones that only the TCB check or the library reports."""
        if self.tcb is not None and self.tcb.status == REVOKED:
            text = "tcbStatus: Intel has revoked this TCB"
            expected = "a TCB that is not revoked"
            faults = (*faults, Reason("tcbStatus", REVOKED, expected, text, kind=ReasonKind.TCB))
        content = self.content_refusal
        if content is not None and all(fault.rule != content.rule for fault in faults):
            text = f"{content.rule}: {content.text}"
            faults = (*faults, Reason(content.rule, "", "", text, kind=content.kind))
        return faults


def _is_current(tcb: TcbRating | None) -> bool:
    return tcb is not None and tcb.status == STATUSES[0]


def _behind_days(collateral: Collateral, tcb: TcbRating | None, now: datetime) -> int | None:
    if tcb is None:
        return None
    try:
        return behind_days(collateral, tcb, now)
    except ValueError:
        return None


@lru_cache(maxsize=64)
def digest_of(collateral: Collateral) -> str:
    """Return SHA-256 over the parts of collateral, each hashed first, in lower-case hex."""
    parts = (getattr(collateral, part.name) for part in fields(collateral))
    encoded = (part.encode() if isinstance(part, str) else part for part in parts)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in encoded)).hexdigest()


def _valid_until(collateral: Collateral, grace: timedelta) -> datetime | None:
    try:
        return ends_at(collateral) + grace
    except ValueError:
        return None


def parse_evidence(evidence: Evidence, tee: str) -> Quote:
    """Parse the quote in `evidence`, which must be of the TEE that the verifier serves.

    Raises:
        EvidenceFormat: the quote is of another TEE, or cannot be read.
    """
    if evidence.tee != tee:
        raise EvidenceFormat(f"this verifier serves evidence of {tee}, not of {evidence.tee}")
    return parse_quote_of(tee, evidence.quote)


def parse_quote_of(tee: str, quote: bytes) -> Quote:
    """Parse a quote, which must be of one TEE. Nothing is verified here.

    Raises:
        EvidenceFormat: the quote is of another TEE, or cannot be read.
    """
    parsed = parse_quote(quote)
    if parsed.tee != tee:
        raise EvidenceFormat(f"the quote is of {parsed.tee}, not of {tee}")
    return parsed


class IntelEngine:
    """Verifier of quotes of both TEEs, up to one trusted root.

    Args:
        source: source of collateral.
        root_ca_der: trusted root, None for Intel's.
        grace: how long the operator's collateral is still used after it expired. It never
            applies to collateral that the guest sent.
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
        self._evaluated = EvaluatedQuotes[VerifiedQuote]()

    async def verify(
        self, quote: Quote, endorsements: object | None, now: datetime
    ) -> VerifiedQuote:
        """Verify signatures, chain, revocation and TCB.

        1. Verify the PCK chain in the quote up to the root: only then is its FMSPC trusted.
        2. Verify that the PCK, through the quoting enclave, signed this quote. Its claims are
           authentic from here on, and only now may collateral be fetched. Signatures do not depend
           on the time, so that those of a quote that was accepted before are not verified again.
        3. Fetch collateral from the source, the best first.
        4. Try the candidates until one verifies. If one is expired or not signed, try the next.
           After a revocation, stop, because older collateral may lack the revocation.
        5. Replace each part of collateral that is older than a copy which any source has sent
           before with the newest copy.

        Returns:
            The verified quote; `refusal` is set if step 4 refused it.

        Raises:
            AttestationError: step 1 or 2 refused the quote: nothing in it is authentic.
            CollateralUnavailable: the operator's collateral is missing, expired or does not
                verify. If guests are its only source, the guest is at fault instead.
        """
        # 1.
        platform = verify_pck_chain(quote.pck_chain, root_key=self._root_key, now=now)
        # 2.
        if quote.digest not in self._evaluated:
            verify_quote_signatures(quote, platform)
        # 3.
        if endorsements is not None and not isinstance(endorsements, Collateral):
            raise TypeError("the endorsements of an Intel quote must be collateral")
        if self._refuse_endorsements:
            endorsements = None
        request = CollateralRequest(tee=quote.tee, fmspc=platform.fmspc, ca=platform.ca)
        with measured(Stage.COLLATERAL):
            candidates = await self._source.candidates(request, endorsements)
        if not candidates:
            raise CollateralUnavailable("no collateral is available for this platform")
        try:
            return await self._first_that_verifies(quote, platform, candidates, endorsements, now)
        except AttestationError as error:
            remedy = self._source.remedy(request)
            if remedy and isinstance(error, CollateralExpired | CollateralRejected):
                texts = "; ".join(reason.text for reason in error.reasons)
                raise CollateralUnavailable(f"{texts}; {remedy}") from error
            tcb = self._rating_for_report(quote, platform, candidates[0], now)
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
            return VerifiedQuote(
                platform,
                verified.tcb,
                verified.content_refusal,
                behind=() if _is_current(verified.tcb) else behind(quote, platform, current),
                components=compare(quote, platform, current),
                behind_days=_behind_days(current, verified.tcb, now),
                valid_until=_valid_until(current, timedelta(0) if chosen_by_guest else self._grace),
                collateral=digest_of(current),
            )
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
        """Refuse collateral that is older than the TCB recovery that the operator requires."""
        if not self._minimum_evaluation:
            return
        try:
            number = evaluation_number(collateral)
        except ValueError:
            number = 0
        if number < self._minimum_evaluation:
            text = "the collateral is older than the required TCB recovery"
            expected = f"at least {self._minimum_evaluation}"
            explained = f"{text}: {number}, {expected}"
            reason = Reason(
                "tcb-info", str(number), expected, explained, kind=ReasonKind.COLLATERAL
            )
            raise CollateralRejected(text, reasons=(reason,))

    def _within_grace(self, collateral: Collateral, now: datetime) -> datetime:
        """Return the time at which to evaluate the collateral.

        dcap-qvl has no grace period, but accepts any time: within the grace period, this is the
        last second before the collateral expired.
        """
        if not self._grace:
            return now
        try:
            last = ends_at(collateral) - timedelta(seconds=1)
        except ValueError:
            return now
        return min(now, last) if now <= last + self._grace else now

    def _evaluate(
        self, quote: Quote, platform: Platform, collateral: Collateral, now: datetime
    ) -> VerifiedQuote:
        """Verify the quote with one set of collateral, whose signatures were verified.

        A rating is cached, see `EvaluatedQuotes`. The chains of quote and signers are valid now.
        """
        now = require_issued(issued_at(collateral), now)
        verify_signers(collateral, platform.ca, self._root_key).require_valid(now)
        digest = parsed(collateral).digest
        known = self._evaluated.get(quote.digest, digest, now)
        if known is not None:
            return known
        result = evaluate_quote(quote.raw, collateral, now=now, root_ca_der=self._root_ca_der)
        if isinstance(result, QuoteRating):
            if result.fmspc != platform.fmspc:
                text = "two libraries read different FMSPCs from the quote"
                reason = Reason(
                    "fmspc",
                    result.fmspc,
                    platform.fmspc,
                    text,
                    kind=ReasonKind.VERIFICATION,
                )
                raise QuoteInvalid("the quote does not verify", reasons=(reason,))
            check_fit(collateral, platform.pce_id)
            verified = VerifiedQuote(platform, result.tcb)
            with suppress(ValueError):  # it has no dates
                until = ends_at(collateral)
                self._evaluated.add(quote.digest, digest, verified, since=now, until=until)
            return verified
        # The library refused the content of the quote and does not rate the platform. The
        # signatures of the texts for the rating were verified above.
        check_fit(collateral, platform.pce_id)
        return VerifiedQuote(platform, rate(quote, platform, collateral), result)

    def _rating_for_report(
        self, quote: Quote, platform: Platform, collateral: Collateral, now: datetime
    ) -> TcbRating | None:
        """Return Intel's rating for the report, from signed texts that may be outdated."""
        try:
            signers = verify_signers(collateral, platform.ca, self._root_key)
            signers.require_valid(now)
        except AttestationError:
            return None
        return rate(quote, platform, collateral)
