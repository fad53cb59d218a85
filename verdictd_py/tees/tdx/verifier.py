"""Verification of TDX quotes: versions 4 and 5, report bodies TD 1.0, 1.5 and 1.5 extended."""

from __future__ import annotations

from datetime import datetime
from functools import lru_cache
from typing import Final

from verdictd_py.domain.evidence import Evidence, VerificationResult
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason, ReasonKind
from verdictd_py.tees.intel.quote import TDX, BodyKind, Quote
from verdictd_py.tees.intel.tee import IntelVerifier
from verdictd_py.tees.intel.verification import parse_evidence, parse_quote_of

# (claim, offset, size) in the report body, which begins at offset 48 of a version 4 quote.
# Source: Intel, "TDX DCAP Quoting Library API", appendix A.3.
_TD10_FIELDS: Final = (
    ("teeTcbSvn", 0, 16),
    ("mrSeam", 16, 48),
    ("mrSignerSeam", 64, 48),
    ("tdAttributes", 120, 8),
    ("xfam", 128, 8),
    ("mrTd", 136, 48),
    ("mrConfigId", 184, 48),
    ("mrOwner", 232, 48),
    ("mrOwnerConfig", 280, 48),
    ("rtmr0", 328, 48),
    ("rtmr1", 376, 48),
    ("rtmr2", 424, 48),
    ("rtmr3", 472, 48),
    ("reportData", 520, 64),
)
_TD15_FIELDS: Final = (("teeTcbSvn2", 584, 16), ("mrServiceTd", 600, 48))

_VALUES: Final = 1024
"""Limit of values that claims share: those of some hundred images, 300 bytes each."""


def _bits(*ranges: tuple[int, int]) -> int:
    """Return a mask of the bits from the first to the last of each range, both included."""
    return sum((1 << last + 1) - (1 << first) for first, last in ranges)


# Bits of TDATTRIBUTES. Source: Intel, "TDX Module ABI Specification" 348551-008US, table 3.23.
_DEBUG: Final = 1 << 0
_PROFILING: Final = _bits((4, 6))
_RESERVED: Final = _bits((1, 3), (7, 15), (23, 26), (32, 61))
_SERVTD_EXT: Final = 1 << 17
_SEPT_VE_DISABLE: Final = 1 << 28
_MIGRATABLE: Final = 1 << 29

_MUST_BE_UNSET: Final = (
    (_PROFILING, "profiling bits 4 to 6 unset", "the host may profile the TD"),
    (_RESERVED, "reserved bits unset", "reserved bits are set"),
    (_SERVTD_EXT, "SERVTD_EXT (bit 17) unset", "service TDs are bound to the TD"),
    (_MIGRATABLE, "MIGRATABLE (bit 29) unset", "the TD may be migrated"),
)


class TdxVerifier(IntelVerifier):
    """Verifier for TDX (port `Verifier`)."""

    name = tee = TDX

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerificationResult:
        """Verify a TDX quote.

        1. Parse the quote: size, version, TEE type, body.
        2. Find faults, which no policy may accept: debug and other attributes, service TDs.
           They are not reported before the signatures are verified.
        3. Verify PCK chain, signatures, collateral, revocation and TCB (`IntelEngine.verify`).
        4. Combine the claims. A refusal has them as well, if the signatures verified.

        Raises:
            AttestationError: the quote is refused and none of its claims is authentic.
            CollateralUnavailable: the quote cannot be appraised now.
        """
        # 1.
        quote = parse_evidence(evidence, self.tee)
        # 2.
        faults = find_faults(quote)
        # 3.
        verified = await self._engine.verify(quote, evidence.endorsements, now)
        # 4.
        return verified.evidence(
            quote,
            report_data=_report_data(quote),
            claims=body_claims(quote),
            faults=faults,
        )


def read_report_data(evidence: bytes) -> bytes:
    """Return REPORTDATA of a TDX quote, 64 bytes. Nothing is verified here.

    Raises:
        EvidenceFormat: it is not a TDX quote.
    """
    return _report_data(parse_quote_of(TDX, evidence))


def _report_data(quote: Quote) -> bytes:
    return quote.body[520:584]


@lru_cache(maxsize=_VALUES)
def _hex(value: bytes) -> str:
    """Return a value in hex.

    Not `sys.intern`: the values come from unauthenticated clients, and early releases of
    Python 3.12 never free interned strings (gh-113993).
    """
    return value.hex()


def body_claims(quote: Quote) -> dict[str, JsonValue]:
    """Return the fields of a TDX report body, in hex, by their names in tdx.md.

    Nothing is verified here. Equal values are usually one string: guests of one image have the same
    measurements, and the claims of connected and recent guests stay in memory.
    """
    fields = _TD10_FIELDS if quote.kind is BodyKind.TD10 else _TD10_FIELDS + _TD15_FIELDS
    claims: dict[str, JsonValue] = {
        name: _hex(quote.body[at : at + size]) for name, at, size in fields
    }
    claims["debug"] = bool(_attributes(quote) & _DEBUG)
    return claims


def find_faults(quote: Quote) -> tuple[Reason, ...]:
    """Return the faults of the report body: guests with them are refused by every policy."""
    attributes = _attributes(quote)
    measured = quote.body[120:128].hex()
    faults = []
    if attributes & _DEBUG:
        text = "debug: measured true, expected false: the host can read the TD's memory"
        faults.append(Reason("debug", "true", "false", text, kind=ReasonKind.ATTRIBUTES))
    wrong = [(expected, why) for mask, expected, why in _MUST_BE_UNSET if attributes & mask]
    if not attributes & _SEPT_VE_DISABLE:
        wrong.append(("SEPT_VE_DISABLE (bit 28) set", "the host can inject #VE by unmapping pages"))
    for expected, why in wrong:
        text = f"tdAttributes: measured {measured}, expected {expected}: {why}"
        faults.append(Reason("tdAttributes", measured, expected, text, kind=ReasonKind.ATTRIBUTES))
    service = quote.body[600:648]  # MRSERVICETD; empty in a TD 1.0 body
    if any(service):
        zeros = bytes(48).hex()
        text = f"mrServiceTd: measured {service.hex()}, expected {zeros}: a service TD is bound"
        faults.append(Reason("mrServiceTd", service.hex(), zeros, text, kind=ReasonKind.ATTRIBUTES))
    return tuple(faults)


def _attributes(quote: Quote) -> int:
    """Return TDATTRIBUTES as a number: little-endian, so bit 0 is in the first byte."""
    return int.from_bytes(quote.body[120:128], "little")
