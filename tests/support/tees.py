"""The TEEs of the package, and contexts for their verifiers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from verdictd_py.ports import VerifierContext
from verdictd_py.ports.events import Events
from verdictd_py.tees.intel.collateral.port import CollateralSource
from verdictd_py.tees.intel.tee import VENDOR, IntelService
from verdictd_py.tees.registry import known_tees

TEES = known_tees()
PROVING = tuple(tee.documents for tee in TEES if tee.proves)
"""Documents that every data directory has."""

TDX, SGX = TEES.named("tdx"), TEES.named("sgx")


class NoEvents(Events):
    """Events that nothing records."""

    def record(self, *args: object, **values: object) -> None: ...

    async def commit(self, *args: object) -> None: ...


def context(
    collateral: CollateralSource,
    *,
    root_ca_der: bytes | None = None,
    grace: timedelta = timedelta(0),
    minimum_evaluation: int = 0,
) -> VerifierContext:
    """Return a context whose Intel service has that source of collateral."""
    return VerifierContext(
        clock=lambda: datetime.now(UTC),
        events=NoEvents(),
        root_ca_der=root_ca_der,
        services={
            VENDOR: IntelService(collateral, grace=grace, minimum_evaluation=minimum_evaluation)
        },
    )
