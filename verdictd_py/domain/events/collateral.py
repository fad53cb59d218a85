"""Events of collateral."""

from typing import Annotated

from verdictd_py.domain.events.fields import CollateralDigest, TeeName
from verdictd_py.domain.eventtypes import Audit, Event, FieldInfo, Level, event

Problem = Annotated[str, FieldInfo("Cause of the failure.", characters=2048)]
Fmspc = Annotated[str, FieldInfo("FMSPC of the platform, in hexadecimal.", characters=16)]
Ca = Annotated[
    str,
    FieldInfo("CA of the platform's PCK certificate: `platform` or `processor`.", characters=16),
]


@event("collateral.used", audit=Audit.LIMITED)
class CollateralUsed(Event):
    """Collateral verifies the evidence of a guest for the first time in this process."""

    tee: TeeName
    sha256: CollateralDigest
    until: (
        Annotated[str, FieldInfo("Time at which it expires (RFC 3339), if it does.", characters=64)]
        | None
    ) = None


@event("collateral.renewed")
class CollateralRenewed(Event):
    """Collateral was fetched and verified."""

    tee: TeeName
    fmspc: Fmspc
    ca: Ca
    until: Annotated[str, FieldInfo("Time at which it expires (RFC 3339).", characters=64)]
    evaluation: Annotated[int, FieldInfo("Its TCB evaluation number.")]


@event("collateral.not-renewed")
class CollateralNotRenewed(Event):
    """Collateral could not be fetched or verified."""

    tee: TeeName
    fmspc: Fmspc
    ca: Ca
    problem: Problem
    again_after_seconds: Annotated[int, FieldInfo("Seconds until the next attempt.")]


@event("collateral.not-stored")
class CollateralNotStored(Event):
    """Collateral could not be stored; the daemon uses it until it stops."""

    problem: Problem


@event("collateral.unreadable")
class CollateralUnreadable(Event):
    """Stored collateral could not be read or verified."""

    problem: Problem


@event("warning.collateral", level=Level.WARNING)
class WarningCollateral(Event):
    """A file of collateral will expire soon, has expired, or cannot be used."""

    file: Annotated[str, FieldInfo("Path of the file.", characters=4096)]
    about: Annotated[str, FieldInfo("Platform of the collateral.", characters=256)]
    problem: Problem
