"""A clock of this host that is wrong: no verdict about a guest may come from it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.collateral import running_place
from tests.support.verifiers import verified_by
from tests.tees.support import (
    NOW,
    Source,
    good_collateral,
    good_quote,
    platform,
    tdx_evidence,
    verify_tdx,
)
from verdictd_py.errors import CollateralUnavailable, NotAppraised, SessionInvalid
from verdictd_py.protocols.rcar.challenges import LIFETIME, Challenges
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.versions import Version
from verdictd_py.simulator import SimulatedPlatform, pki
from verdictd_py.simulator.platform import BACKDATE
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import CLOCK_TOLERANCE, check_collateral
from verdictd_py.tees.intel.collateral.forms import collateral_to_json
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.collateral.sources import FileCollateral
from verdictd_py.tees.tdx.verifier import TdxVerifier

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
REQUEST = CollateralRequest("tdx", "50806f000000", "platform")


def test_collateral_issued_some_minutes_after_this_hosts_time_is_accepted() -> None:
    collateral = platform().collateral(NOW + BACKDATE + CLOCK_TOLERANCE)
    assert verify_tdx(good_quote(), collateral).tcb_status == "UpToDate"
    key = root_key_digest(platform().root_ca_der)
    validity = check_collateral(collateral, REQUEST, root_key=key, now=NOW)
    assert validity.start == NOW + CLOCK_TOLERANCE


async def test_the_cache_serves_collateral_that_was_issued_some_minutes_later() -> None:
    """A PCCS whose clock is ahead is queried once, not for each guest."""
    async with running_place() as place:
        issued = place.clock.now + CLOCK_TOLERANCE + BACKDATE
        place.pccs.clock = lambda: issued
        for _ in range(3):
            assert len(await place.get()) == 1
        assert set(place.pccs.asked.values()) == {1}


@pytest.mark.parametrize("late", ["all parts", "PCK CRL", "root CRL"])
def test_a_guest_is_not_appraised_if_this_hosts_clock_is_behind(late: str, tmp_path: Path) -> None:
    """With `--collateral FILE` guests received the final `collateral-expired`."""
    issued = NOW + CLOCK_TOLERANCE + SECOND
    validity = pki.Validity(issued, issued + timedelta(days=30))
    collateral = {
        "all parts": platform().collateral(issued + BACKDATE),
        "PCK CRL": replace(good_collateral(), pck_crl=pki.new_crl(platform().pck_ca, (), validity)),
        "root CRL": replace(
            good_collateral(), root_ca_crl=pki.new_crl(platform().root, (), validity)
        ),
    }[late]
    (tmp_path / "collateral.json").write_text(collateral_to_json(collateral))
    source = FileCollateral(tmp_path / "collateral.json")
    verifier = TdxVerifier(source, root_ca_der=platform().root_ca_der)
    with pytest.raises(NotAppraised) as caught:
        asyncio.run(verified_by(verifier, tdx_evidence(good_quote()), now=NOW))
    assert str(caught.value) == (
        "collateral was issued at 2026-11-24T12:05:01+00:00, but this host's clock shows "
        "2026-11-24T12:00:00+00:00; check this host's clock"
    )


def test_unsigned_collateral_from_the_future_says_nothing_about_the_clock() -> None:
    """Only signatures prove that a time of issue has passed; the next collateral is used."""
    other = SimulatedPlatform.create(now=NOW)
    forged = other.collateral(NOW + timedelta(days=9))
    assert verify_tdx(good_quote(), forged, good_collateral()).tcb_status == "UpToDate"


def test_no_verdict_is_based_on_a_later_set_if_this_hosts_clock_is_behind() -> None:
    """The clock is wrong, so no other collateral can be judged by it either."""
    future = platform().collateral(NOW + timedelta(days=9))
    source = Source(future, good_collateral())
    verifier = TdxVerifier(source, root_ca_der=platform().root_ca_der)
    with pytest.raises(CollateralUnavailable, match="check this host's clock"):
        asyncio.run(verified_by(verifier, tdx_evidence(good_quote()), now=NOW))


def test_a_challenge_from_a_clock_that_was_ahead_is_invalid() -> None:
    """It would be valid for hours, and so would evidence that answers it."""
    sealer = Challenges.of(ec.generate_private_key(ec.SECP256R1()))
    challenge = Challenge(Version.V0_4_0, "tdx", "nonce")
    for ahead, accepted in ((timedelta(0), True), (timedelta(minutes=1), True), (HOUR, False)):
        sealed = sealer.seal(challenge, session="one", expires=NOW + ahead + LIFETIME)
        if accepted:
            assert sealer.open(sealed, session="one", now=NOW) == challenge
        else:
            with pytest.raises(SessionInvalid):
                sealer.open(sealed, session="one", now=NOW)
