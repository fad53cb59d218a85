"""Every changed bit of a quote: refused, or of no account to anything that was signed."""

from __future__ import annotations

import os
import random
import sys
from collections import Counter
from collections.abc import Iterable

import pytest

from verdictd_py import app
from verdictd_py.domain.evidence import Collateral, Evidence, Tee, VerifiedEvidence
from verdictd_py.domain.ports import CollateralRequest
from verdictd_py.errors import AttestationError
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.verifiers.quote import parse_quote
from verdictd_py.verifiers.tdx import TdxVerifier

NOW = app.utc_now()
SIGNED = 632  # header and body of a v4 quote (tdx.md)
KEY_AND_SIGNATURE = 128


class OneCollateral:
    """A source that has one set for everybody."""

    def __init__(self, collateral: Collateral) -> None:
        self._collateral = collateral

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        del request, endorsements
        return (self._collateral,)


@pytest.fixture(scope="module")
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=NOW)


async def judged(verifier: TdxVerifier, quote: bytes) -> VerifiedEvidence | None:
    """What is found, None where it is refused."""
    evidence = Evidence(tee=Tee.TDX, quote=quote, binding=None, form="test")
    try:
        return await verifier.verify(evidence, now=NOW)
    except AttestationError:
        return None


def bits(places: Iterable[int], *, all_of_them: bool) -> Iterable[tuple[int, int]]:
    chance = random.Random(os.urandom(8))  # noqa: S311  # another bit of each byte in each run
    for place in places:
        yield from ((place, bit) for bit in (range(8) if all_of_them else [chance.randrange(8)]))


async def counted(platform: SimulatedPlatform, places: Iterable[tuple[int, int]]) -> Counter[str]:
    """How many changed bits were refused, and how many changed nothing that is found."""
    quote = platform.quote(bytes(64))
    verifier = TdxVerifier(
        OneCollateral(platform.collateral(NOW)), root_ca_der=platform.root_ca_der
    )
    good = await judged(verifier, quote)
    assert good is not None
    counts: Counter[str] = Counter()
    for place, bit in places:
        changed = bytearray(quote)
        changed[place] ^= 1 << bit
        found = await judged(verifier, bytes(changed))
        if found is None:
            counts["refused"] += 1
            continue
        assert found.claims == good.claims, (place, bit)
        assert (found.tcb_status, found.faults) == (good.tcb_status, good.faults), (place, bit)
        counts["of no account"] += 1
    return counts


async def test_every_bit_of_what_is_signed_counts(platform: SimulatedPlatform) -> None:
    """Header, body, their signature, the attestation key, and the QE's report."""
    quote = parse_quote(platform.quote(bytes(64)))
    assert len(quote.signed) == SIGNED
    places = (*range(SIGNED), *range(SIGNED + 4, SIGNED + 4 + KEY_AND_SIGNATURE))
    everything = bool(os.environ.get("EVERY_BIT"))
    found = await counted(platform, bits(places, all_of_them=everything))
    assert found == {"refused": len(places) * (8 if everything else 1)}
    raw = platform.quote(bytes(64))
    report = raw.index(quote.qe_report)
    # Its signature follows it. Each quote has another report, but at the same place.
    signed = range(report, report + len(quote.qe_report) + 64)
    found = await counted(platform, bits(signed, all_of_them=everything))
    assert found == {"refused": len(signed) * (8 if everything else 1)}


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_any_other_bit_is_refused_or_changes_nothing(platform: SimulatedPlatform) -> None:
    """Line ends of PEM, the root certificate that nobody needs, what follows the quote."""
    size = len(platform.quote(bytes(64)))
    everything = bool(os.environ.get("EVERY_BIT"))
    found = await counted(platform, bits(range(SIGNED, size), all_of_them=everything))
    assert found["refused"] > found["of no account"] > 0
    if everything:
        sys.stderr.write(f"{size} bytes: {dict(found)}\n")  # the figures, for who asked for them
