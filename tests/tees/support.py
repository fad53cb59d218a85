"""Shared code of tests of verifiers: a simulated platform, real vectors, a collateral source."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, TypeVar

from tests.support.verifiers import verified_by
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform, pki
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.tdx.verifier import TdxVerifier

T = TypeVar("T")

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
REPORT_DATA: Final = bytes(range(64))


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@cache
def platform() -> SimulatedPlatform:
    """Return one simulated platform for all tests, which must not change it."""
    return SimulatedPlatform.create(now=NOW)


@cache
def good_collateral() -> Collateral:
    return platform().collateral(NOW)


@cache
def good_quote() -> bytes:
    return platform().quote(REPORT_DATA)


def with_options(**changes: Any) -> SimulatedPlatform:
    return platform().with_options(replace(PlatformOptions(), **changes))


def signed_again(collateral: Collateral, **texts: str) -> Collateral:
    """Return correctly signed collateral with other texts for `tcb_info` or `qe_identity`."""
    return signed_by(platform(), collateral, **texts)


def signed_by(of: SimulatedPlatform, collateral: Collateral, /, **texts: str) -> Collateral:
    """Return collateral with other texts, signed for a platform."""
    signer = of.tcb_signer
    for name, text in texts.items():
        signature = pki.sign_raw(signer.key, text.encode())
        changes: dict[str, Any] = {name: text, f"{name}_signature": signature}
        collateral = replace(collateral, **changes)
    return collateral


class Source:
    """A collateral source that returns given collateral and counts its requests.

    As for a source of guests' collateral, nothing but this can be better.
    """

    def __init__(self, *collateral: Collateral) -> None:
        self.collateral = collateral
        self.requests: list[CollateralRequest] = []

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        self.requests.append(request)
        return self.collateral

    def remedy(self, request: CollateralRequest) -> str:
        del request
        return ""


def tdx_evidence(quote: bytes, endorsements: Collateral | None = None) -> Evidence:
    return Evidence("tdx", quote, None, "raw quote", endorsements)


def verify_tdx(
    quote: bytes, *collateral: Collateral, now: datetime = NOW, root: bytes | None = None
) -> VerifiedEvidence:
    """Verify one TDX quote up to the simulated root, or another one."""
    source = Source(*(collateral or (good_collateral(),)))
    verifier = TdxVerifier(source, root_ca_der=root or platform().root_ca_der)
    return run(verified_by(verifier, tdx_evidence(quote), now=now))
