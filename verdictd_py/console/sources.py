"""Data of the pages that the management API has no method for: collateral, load, audit records.

Only people who may manage the broker read them; nothing here changes anything.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from verdictd_py.console.auditproof import Export, Proof
from verdictd_py.console.audittrail import AuditSearch, AuditView
from verdictd_py.console.views.ending import End
from verdictd_py.console.views.load import Load
from verdictd_py.domain.callers import Caller, Right


@dataclass(frozen=True, slots=True)
class CollateralPart:
    """A signed part of collateral.

    Attributes:
        platform: TEE, FMSPC and CA, in one text.
        number: `tcbEvaluationDataNumber`; None for a revocation list.
    """

    platform: str
    part: str
    since: datetime
    until: datetime
    number: int | None


async def _no_parts() -> Sequence[CollateralPart]:
    return ()


async def _no_ends() -> Sequence[End]:
    return ()


async def _no_records(search: AuditSearch) -> AuditView:
    del search
    return AuditView((), (), complete=True)


async def _no_proof() -> Proof:
    return Proof((), (), 0, 0, None, complete=True)


async def _no_export(search: AuditSearch, form: str) -> Export:
    del search, form
    return Export("", 0, complete=True)


async def _no_load() -> Load:
    return Load()


@dataclass(frozen=True, slots=True)
class Sources:
    """Functions that return the data now.

    Attributes:
        grace_days: for so long the broker uses collateral after it expired.
    """

    read_collateral: Callable[[], Awaitable[Sequence[CollateralPart]]] = _no_parts
    read_ends: Callable[[], Awaitable[Sequence[End]]] = _no_ends
    read_audit: Callable[[AuditSearch], Awaitable[AuditView]] = _no_records
    verify_audit: Callable[[], Awaitable[Proof]] = _no_proof
    export_audit: Callable[[AuditSearch, str], Awaitable[Export]] = _no_export
    read_load: Callable[[], Awaitable[Load]] = _no_load
    grace_days: float = 0

    async def collateral(self, caller: Caller) -> Sequence[CollateralPart]:
        """Return the parts of all collateral that the broker has.

        Raises:
            NotAuthorized: the caller is not allowed to see it.
        """
        caller.require(Right.MANAGE)
        return await self.read_collateral()

    async def ends(self, caller: Caller) -> Sequence[End]:
        """Return the ends of the broker's collateral and certificates.

        Raises:
            NotAuthorized: the caller is not allowed to see them.
        """
        caller.require(Right.MANAGE)
        return await self.read_ends()

    async def load(self, caller: Caller) -> Load:
        """Return latency, load of the processes and connections.

        Raises:
            NotAuthorized: the caller is not allowed to see them.
        """
        caller.require(Right.MANAGE)
        return await self.read_load()

    async def audit(self, caller: Caller, search: AuditSearch) -> AuditView:
        """Return records of the audit trail.

        Raises:
            NotAuthorized: the caller is not allowed to see them.
            StorageError: the trail cannot be read.
        """
        caller.require(Right.MANAGE)
        return await self.read_audit(search)

    async def proof(self, caller: Caller) -> Proof:
        """Verify the newest files of the audit trail.

        Raises:
            NotAuthorized: the caller is not allowed to see it.
            StorageError: the trail cannot be read.
        """
        caller.require(Right.MANAGE)
        return await self.verify_audit()

    async def export(self, caller: Caller, search: AuditSearch, form: str) -> Export:
        """Export records of the audit trail.

        Raises:
            NotAuthorized: the caller is not allowed to see them.
            StorageError: the trail cannot be read.
        """
        caller.require(Right.MANAGE)
        return await self.export_audit(search, form)
