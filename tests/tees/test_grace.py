"""Grace period of expired collateral, for the operator's and never for a guest's."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.support.verifiers import verified_by
from tests.tees.support import Source as OneCollateral
from verdictd_py import daemon as app
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import AttestationError, CollateralExpired
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform
from verdictd_py.tees.intel.collateral.check import ends_at
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly
from verdictd_py.tees.tdx.verifier import TdxVerifier

NOW = app.utc_now()
WEEK = timedelta(days=7)


@pytest.fixture(scope="module")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=NOW)


def evidence(platform: SimulatedPlatform, brought: Collateral | None = None) -> Evidence:
    quote = platform.quote(bytes(64))
    return Evidence(tee="tdx", quote=quote, binding=None, form="test", endorsements=brought)


@pytest.mark.parametrize(
    ("grace", "after", "accepted"),
    [
        (timedelta(0), timedelta(seconds=-2), True),
        (timedelta(0), timedelta(seconds=1), False),
        (WEEK, timedelta(seconds=1), True),
        (WEEK, WEEK - timedelta(minutes=1), True),
        (WEEK, WEEK + timedelta(minutes=1), False),
    ],
)
async def test_the_grace_period_ends_as_configured(
    platform: SimulatedPlatform, grace: timedelta, after: timedelta, accepted: bool
) -> None:
    collateral = platform.collateral(NOW)
    verifier = TdxVerifier(OneCollateral(collateral), root_ca_der=platform.root_ca_der, grace=grace)
    moment = ends_at(collateral) + after
    if accepted:
        result = await verified_by(verifier, evidence(platform), now=moment)
        assert result.tcb_status == "UpToDate"
    else:
        with pytest.raises(CollateralExpired):
            await verified_by(verifier, evidence(platform), now=moment)


async def test_collateral_of_a_guest_has_no_grace_period(platform: SimulatedPlatform) -> None:
    collateral = platform.collateral(NOW)
    verifier = TdxVerifier(EndorsementsOnly(), root_ca_der=platform.root_ca_der, grace=WEEK)
    moment = ends_at(collateral) + timedelta(hours=1)
    with pytest.raises(CollateralExpired):
        await verified_by(verifier, evidence(platform, collateral), now=moment)


async def test_the_grace_period_applies_to_the_expiry_only(platform: SimulatedPlatform) -> None:
    revoked = platform.with_options(PlatformOptions(pck_revoked=True)).collateral(NOW)
    verifier = TdxVerifier(OneCollateral(revoked), root_ca_der=platform.root_ca_der, grace=WEEK)
    with pytest.raises(AttestationError):
        await verified_by(verifier, evidence(platform), now=ends_at(revoked) + timedelta(hours=1))


def test_collateral_without_an_expiry_date_is_refused() -> None:
    nothing = Collateral("", b"", b"", "", "{}", b"", "", "{}", b"")
    with pytest.raises(ValueError, match="has no expiry date"):
        ends_at(nothing)


@pytest.mark.parametrize(("least", "accepted"), [(0, True), (17, True), (18, False)])
@pytest.mark.parametrize("of_the_guest", [False, True])
async def test_the_minimum_evaluation_number_applies_to_all_sources(
    platform: SimulatedPlatform, least: int, accepted: bool, of_the_guest: bool
) -> None:
    """It applies to the operator's files and to the guest's collateral."""
    collateral = platform.collateral(NOW)
    source = EndorsementsOnly() if of_the_guest else OneCollateral(collateral)
    verifier = TdxVerifier(source, root_ca_der=platform.root_ca_der, minimum_evaluation=least)
    shown = evidence(platform, collateral if of_the_guest else None)
    if accepted:
        assert (await verified_by(verifier, shown, now=NOW)).tcb_status == "UpToDate"
    else:
        with pytest.raises(AttestationError) as caught:
            await verified_by(verifier, shown, now=NOW)
        assert caught.value.reasons[0].expected == "at least 18"
