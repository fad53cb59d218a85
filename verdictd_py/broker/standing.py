"""Standing of a connected guest: the result of its last appraisal, and the basis of that result."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Self

from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.errors import GuestRefused, NotAppraised, VerdictdError


class Standing(StrEnum):
    """Whether the requests of a connected guest are answered, by its last appraisal."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    NOT_APPRAISED = "not appraised"


@dataclass(frozen=True, slots=True)
class Basis:
    """Everything that an appraisal depends on, except the time.

    Attributes:
        changes: number of announced changes.
        documents: revision of the documents that decide, or the reason why they cannot be used.
    """

    changes: int
    documents: int | str

    @property
    def is_unknown(self) -> bool:
        """Whether the documents cannot be used."""
        return isinstance(self.documents, str)


@dataclass(frozen=True, slots=True)
class Result:
    """Result of the last appraisal of a guest.

    Attributes:
        began: when the appraisal began, by the clock of the event loop.
        at: the same moment by the wall clock.
        record: id of the appraisal that history and audit trail have; a repeated appraisal with
            the same result is not recorded.
        failure: error that answers the guest's next request; None if the guest is accepted.
        valid_until: time at which the collateral behind the result expires; None if unknown.
    """

    basis: Basis
    began: float
    at: datetime
    record: str
    failure: VerdictdError | None = None
    code: str = "ok"
    reasons: tuple[str, ...] = ()
    valid_until: datetime | None = None

    @classmethod
    def not_appraised(
        cls, error: NotAppraised, basis: Basis, began: float, at: datetime, record: str
    ) -> Self:
        """Return the result of an appraisal that ended without a verdict."""
        return cls(basis, began, at, record, _bare(error), error.code, (str(error),))

    @property
    def standing(self) -> Standing:
        """Whether the guest is served."""
        if self.failure is None:
            return Standing.ACCEPTED
        refused = isinstance(self.failure, GuestRefused)
        return Standing.REFUSED if refused else Standing.NOT_APPRAISED


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """Status of a connected guest, for operators.

    Attributes:
        id: id of the guest's first appraisal.
        appraisal: id of the appraisal that explains its standing, for `explain`.
        appraised_at: time of the last appraisal.
        code: `ok`, or the code that the guest's next request receives.
        reasons: why the guest is not served.
    """

    id: str
    address: str
    tee: str
    connected_at: datetime
    appraisal: str
    appraised_at: datetime
    standing: Standing
    code: str
    reasons: tuple[str, ...]


def valid_until_of(appraisal: Appraisal) -> datetime | None:
    """Return the time at which the collateral behind an appraisal expires, if that is known."""
    return None if appraisal.evidence is None else appraisal.evidence.valid_until


def _bare(error: NotAppraised) -> NotAppraised:
    """Return an error without its traceback and causes, which would keep frames in memory."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
