"""Certificates that the C library wrote."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from tests.support.ratstls import NOW, report_data, vector
from tests.support.tees import TEES
from verdictd_py.errors import EvidenceExpired, EvidenceMissing
from verdictd_py.formats.collateral import Collateral
from verdictd_py.protocols.ratstls import certificate

OID_FORM = "rats-tls OID 1.2.840.113741.1337.8"
BARE_FORM = "rats-tls tag 0x1a7501 without claims critical"
INTERIM_FORM = "rats-tls tag 0x1a7501 with claims critical"
CURRENT_FORM = "rats-tls tag 60000 with claims"

GENUINE = [
    ("rpm-tdx-client", OID_FORM, 32),
    ("5de6fc3-tdx-client", OID_FORM, 32),
    ("8fbfdb6-tdx-client", BARE_FORM, 36),
    ("15724cf-tdx-client", INTERIM_FORM, 32),
    ("6675532-tdx-client", CURRENT_FORM, 32),
    ("6675532-cbor010-tdx-client", CURRENT_FORM, 32),
    ("6675532-cbor010-tdx-endorsements-client", CURRENT_FORM, 32),
]


@pytest.mark.parametrize(("name", "form", "size"), GENUINE)
def test_genuine_certificates_bind_their_key(name: str, form: str, size: int) -> None:
    evidence = certificate.read(vector(f"{name}.der"), TEES, now=NOW)
    assert evidence.tee == "tdx"
    assert evidence.form == form
    assert evidence.binding is not None
    assert len(evidence.binding) == size
    assert report_data(evidence.quote).startswith(evidence.binding)
    assert len(evidence.quote) == 4931
    assert (evidence.endorsements is not None) == ("endorsements" in name)


@pytest.mark.parametrize("name", ["5de6fc3-null-client", "6675532-null-client"])
def test_a_null_attester_is_refused(name: str) -> None:
    """defects.md 7: absent evidence has no fallback."""
    with pytest.raises(EvidenceMissing):
        certificate.read(vector(f"{name}.der"), TEES, now=NOW)


@pytest.mark.parametrize("name", [name for name, _, _ in GENUINE])
def test_genuine_certificates_expire(name: str) -> None:
    """defects.md 18: certificates expire."""
    with pytest.raises(EvidenceExpired):
        certificate.read(vector(f"{name}.der"), TEES, now=NOW + timedelta(days=400))


def test_endorsements_of_the_c_library() -> None:
    name = "6675532-cbor010-tdx-endorsements-client.der"
    found = certificate.read(vector(name), TEES, now=NOW).endorsements
    expected = json.loads(vector("collateral.json"))
    for member in ("root_ca_crl", "pck_crl", "tcb_info_signature", "qe_identity_signature"):
        expected[member] = bytes.fromhex(expected[member])
    assert found == Collateral(**expected)
