"""Every changed bit of a quote is refused, or is outside of everything that is signed.

Each run looks at some bits, other ones each time. `EVERY_BIT=1 ./dev test
tests/tees/test_single_bits.py -s` looks at all of them and prints both counts.
"""

from __future__ import annotations

import base64
import os
import random
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.support.vectors import vector
from tests.support.verifiers import verified_by
from tests.tees.support import Source
from verdictd_py import daemon as app
from verdictd_py.domain.evidence import Evidence, VerifiedEvidence
from verdictd_py.errors import AttestationError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.tees.intel.collateral.forms import collateral_from_json
from verdictd_py.tees.intel.quote import parse_quote
from verdictd_py.tees.tdx.verifier import TdxVerifier

EVERY_BIT: Final = bool(os.environ.get("EVERY_BIT"))
SIGNED: Final = 632  # header and body of a v4 quote (tdx.md)
LENGTH: Final = 4
REAL_TIME: Final = datetime.fromisoformat("2025-06-20T10:16:03Z")
CHANCE: Final = random.Random(os.urandom(8))  # noqa: S311  # a choice of bits


@dataclass(frozen=True)
class Sample:
    """A valid quote, with collateral, root and time to verify it."""

    quote: bytes
    collateral: Collateral
    root: bytes | None
    now: datetime

    async def judged(self, quote: bytes) -> VerifiedEvidence | None:
        """Return the verified claims, None if the quote is refused."""
        verifier = TdxVerifier(Source(self.collateral), root_ca_der=self.root)
        evidence = Evidence(tee="tdx", quote=quote, binding=None, form="test")
        try:
            return await verified_by(verifier, evidence, now=self.now)
        except AttestationError:
            return None


@pytest.fixture(scope="module", params=["simulated", "real"])
def sample(request: pytest.FixtureRequest) -> Sample:
    if request.param == "real":
        folder = vector("quotes/tdx-v4-up-to-date")
        collateral = collateral_from_json((folder / "collateral.json").read_bytes())
        return Sample((folder / "quote.bin").read_bytes(), collateral, None, REAL_TIME)
    now = app.utc_now()
    platform = SimulatedPlatform.create(now=now)
    quote = platform.quote(bytes(64))
    return Sample(quote, platform.collateral(now), platform.root_ca_der, now)


def signed_places(quote: bytes) -> dict[str, range]:
    """Return the ranges of a v4 quote that are signed, or belong to signatures."""
    parts = parse_quote(quote)
    report = quote.index(parts.qe_report)
    auth = report + len(parts.qe_report) + len(parts.qe_report_signature) + 2
    assert quote[auth : auth + len(parts.qe_auth_data)] == parts.qe_auth_data
    return {
        "header and body": range(SIGNED),
        "signature": range(SIGNED + LENGTH, SIGNED + LENGTH + 64),
        "attestation key": range(SIGNED + LENGTH + 64, SIGNED + LENGTH + 128),
        "QE report": range(report, report + 384),
        "its signature": range(report + 384, report + 384 + 64),
        "QE authentication data": range(auth, auth + len(parts.qe_auth_data)),
    }


def flip(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def bits(places: Sequence[int], every: int) -> Iterable[tuple[int, int]]:
    """Return the bits to change: all, or one bit in every `every` bytes."""
    if EVERY_BIT:
        return [(place, bit) for place in places for bit in range(8)]
    return [(place, CHANCE.randrange(8)) for place in places[CHANCE.randrange(every) :: every]]


def pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----"


def tell(what: str, counts: Counter[str]) -> None:
    if EVERY_BIT:
        sys.stderr.write(f"\n{what}: {dict(counts)}")


async def test_every_changed_bit_of_signed_data_is_refused(
    sample: Sample, request: pytest.FixtureRequest
) -> None:
    assert await sample.judged(sample.quote) is not None
    for name, places in signed_places(sample.quote).items():
        counts: Counter[str] = Counter()
        for place, bit in bits(places, every=2):
            assert await sample.judged(flip(sample.quote, place, bit)) is None, (name, place, bit)
            counts["refused"] += 1
        assert counts["refused"] >= len(places) // 2
        tell(f"{request.node.callspec.id} {name}", counts)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@pytest.mark.parametrize("which", [0, 1], ids=["PCK", "intermediate CA"])
async def test_every_changed_bit_of_a_certificate_is_refused(
    sample: Sample, which: int, request: pytest.FixtureRequest
) -> None:
    """This is about its DER, not about the PEM encoding."""
    chain = x509.load_pem_x509_certificates(parse_quote(sample.quote).pck_chain.rstrip(b"\0"))
    der = chain[which].public_bytes(Encoding.DER)
    assert sample.quote.count(pem(der)) == 1
    counts: Counter[str] = Counter()
    for place, bit in bits(range(len(der)), every=4):
        changed = sample.quote.replace(pem(der), pem(flip(der, place, bit)))
        assert await sample.judged(changed) is None, (place, bit)
        counts["refused"] += 1
    assert counts["refused"] >= len(der) // 4
    tell(request.node.callspec.id, counts)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
async def test_any_other_changed_bit_is_refused_or_has_no_effect(
    sample: Sample, request: pytest.FixtureRequest
) -> None:
    """Line ends of PEM, padding: the result has identical claims and verdict, or is a refusal."""
    good = await sample.judged(sample.quote)
    assert good is not None
    known = {place for places in signed_places(sample.quote).values() for place in places}
    places = [place for place in range(len(sample.quote)) if place not in known]
    counts: Counter[str] = Counter()
    for place, bit in bits(places, every=5):
        found = await sample.judged(flip(sample.quote, place, bit))
        if found is None:
            counts["refused"] += 1
            continue
        assert found.claims == good.claims, (place, bit)
        assert (found.tcb_status, found.faults) == (good.tcb_status, good.faults), (place, bit)
        counts["of no account"] += 1
    assert counts["refused"] > 0
    tell(f"{request.node.callspec.id} anything else, {len(sample.quote)} bytes in all", counts)
