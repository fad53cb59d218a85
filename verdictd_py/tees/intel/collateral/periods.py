"""Validity period of each signed part of a set of collateral, for displays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography import x509

from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.collateral.parts import PCK_CRL, QE_IDENTITY, ROOT_CRL, TCB_INFO, Part
from verdictd_py.tees.intel.collateral.port import CollateralRequest

_Dates = tuple[datetime, datetime, int | None]
"""Issue, next update, evaluation number."""


@dataclass(frozen=True, slots=True)
class Period:
    """Validity of one part.

    Attributes:
        platform: TEE, FMSPC and CA, in one text.
        part: name of the part.
        since, until: date of issue and of the next update.
        number: `tcbEvaluationDataNumber`; None for a revocation list.
    """

    platform: str
    part: str
    since: datetime
    until: datetime
    number: int | None = None


def periods(sets: Iterable[tuple[CollateralRequest, Collateral]]) -> tuple[Period, ...]:
    """Return the periods of all parts; a part that does not state its period is omitted."""
    return tuple(period for request, collateral in sets for period in _periods(request, collateral))


def _periods(request: CollateralRequest, collateral: Collateral) -> Iterator[Period]:
    platform = f"{request.tee} {request.fmspc} {request.ca}"
    view = parsed(collateral)
    readers: tuple[tuple[Part, Callable[[], _Dates]], ...] = (
        (TCB_INFO, lambda: _of_text(view.tcb_info)),
        (QE_IDENTITY, lambda: _of_text(view.qe_identity)),
        (PCK_CRL, lambda: _of_list(view.pck_crl)),
        (ROOT_CRL, lambda: _of_list(view.root_ca_crl)),
    )
    for part, read in readers:
        try:
            since, until, number = read()
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # the verifier reports it
        yield Period(platform, part.name, since, until, number)


def _of_text(members: dict[str, Any]) -> _Dates:
    since, until = (datetime.fromisoformat(members[name]) for name in ("issueDate", "nextUpdate"))
    if since.tzinfo is None or until.tzinfo is None:
        raise ValueError("a date has no time zone")
    return since, until, int(members["tcbEvaluationDataNumber"])


def _of_list(crl: x509.CertificateRevocationList) -> _Dates:
    if crl.next_update_utc is None:
        raise ValueError("the revocation list has no next update")
    return crl.last_update_utc, crl.next_update_utc, None
