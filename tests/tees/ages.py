"""Collateral whose parts have chosen ages, and how `NewestCollateral` takes it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.tees.support import NOW, platform, signed_again
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import PlatformOptions, pki
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.newest import NewestCollateral
from verdictd_py.tees.intel.collateral.port import CollateralRequest

REQUEST: Final = CollateralRequest("tdx", "50806f000000", "platform")
DAY: Final = timedelta(days=1)
HOUR: Final = timedelta(hours=1)
ROOT_KEY: Final = root_key_digest(platform().root_ca_der)


def crl(
    issuer: pki.Signer,
    *,
    number: int | None = 1,
    issued: datetime = NOW - DAY,
    revoked: tuple[x509.Certificate, ...] = (),
) -> bytes:
    """Return a CRL; `number` None: it has no CRL number."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(issued)
        .next_update(issued + 31 * DAY)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()),
            critical=False,
        )
    )
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    for certificate in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(issued)
            .build()
        )
    return builder.sign(issuer.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def text_of(part: str, *, number: int = 17, issued: datetime = NOW - DAY, old: bool = False) -> str:
    """Return TCB info or QE identity; `old` rates this platform OutOfDate."""
    options = PlatformOptions(
        tcb_evaluation_number=number, tcb_status="OutOfDate" if old else "UpToDate"
    )
    text: str = getattr(platform().with_options(options).collateral(issued + DAY), part)
    return text


def variant(part: str, *, number: int, issued: datetime) -> Collateral:
    """Return good collateral with one part of another age."""
    good = platform().collateral(NOW)
    if part == "pck_crl":
        return replace(good, pck_crl=crl(platform().pck_ca, number=number, issued=issued))
    if part == "root_ca_crl":
        return replace(good, root_ca_crl=crl(platform().root, number=number, issued=issued))
    return signed_again(good, **{part: text_of(part, number=number, issued=issued)})


OLDER: Final = {
    "lower number": {"number": 20, "issued": NOW - DAY},
    "earlier date": {"number": 21, "issued": NOW - DAY - HOUR},
    "lower number, later date": {"number": 20, "issued": NOW - HOUR},
    "higher number, earlier date": {"number": 22, "issued": NOW - DAY - HOUR},
}


def newer_and_older(part: str, age: str) -> tuple[Collateral, Collateral]:
    newer = variant(part, number=21, issued=NOW - DAY)
    older: dict[str, Any] = OLDER[age]
    return newer, variant(part, **older)


async def applied(
    newest: NewestCollateral, collateral: Collateral, *, by_guest: bool = False
) -> Collateral:
    found = await newest.apply(collateral, REQUEST, now=NOW, chosen_by_guest=by_guest)
    await newest.flush()
    return found
