"""Issued certificates: in the form of each generation, and readable by the reader."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from asn1crypto import x509 as asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from tests.support.ratstls import (
    CBOR_FORMS,
    CLAIM_FORMS,
    DICE,
    ENDORSEMENTS,
    FORMS,
    GARBAGE,
    NOW,
    VENDOR,
    collateral,
    ec_key,
    make,
    quote_for,
    report_data,
    rsa_key,
    spki,
    vector,
)
from tests.support.tees import TEES
from verdictd_py.errors import EvidenceMissing
from verdictd_py.formats import der
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.protocols.ratstls.issue import Form, PrivateKey, issue

KEYS = [pytest.param(ec_key, id="P-256"), pytest.param(rsa_key, id="RSA-3072")]

LIKE = {  # the vector that each form imitates
    Form.LEGACY: "rpm-tdx-client",
    Form.BARE_V4: "8fbfdb6-tdx-client",
    Form.INTERIM: "15724cf-tdx-client",
    Form.CURRENT: "6675532-cbor010-tdx-client",
    Form.NULL: "6675532-null-client",
}

VERSIONS = {Form.LEGACY: 3, Form.BARE_V4: 3, Form.CUSTOM_V4: 3}
CRITICAL = {Form.BARE_V4, Form.BARE, Form.CUSTOM_V4, Form.INTERIM, Form.CRITICAL}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_and_binds_its_key(form: Form, key: object) -> None:
    assert callable(key)
    used: PrivateKey = key()
    evidence = certificate.read(make(form, used), TEES, now=NOW)
    assert evidence.tee == "tdx"
    assert evidence.binding is not None
    assert report_data(evidence.quote).startswith(evidence.binding)
    if form is Form.LEGACY:
        assert evidence.binding == hashlib.sha256(spki(used)).digest()
    if form in {Form.BARE, Form.BARE_V4}:
        assert evidence.binding == b"\x82\x01\x58\x20" + hashlib.sha256(spki(used)).digest()
    assert evidence.endorsements is None


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("form", Form)
def test_every_certificate_is_signed_with_its_own_key(form: Form, key: object) -> None:
    assert callable(key)
    used: PrivateKey = key()
    written = asn1.Certificate.load(make(form, used))
    signed, signature = written["tbs_certificate"].dump(), written["signature_value"].native
    if isinstance(used, ec.EllipticCurvePrivateKey):
        assert written["signature_algorithm"]["algorithm"].native == "sha256_ecdsa"
        used.public_key().verify(signature, signed, ec.ECDSA(hashes.SHA256()))
    else:
        assert written["signature_algorithm"]["algorithm"].native == "sha256_rsa"
        used.public_key().verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())


@pytest.mark.parametrize("form", Form)
def test_every_form_has_its_version_and_criticality(form: Form) -> None:
    written = asn1.Certificate.load(make(form))["tbs_certificate"]
    assert int.from_bytes(written["version"].contents[-1:], "big") == VERSIONS.get(form, 2)
    names = {entry["extn_id"].dotted: entry["critical"].native for entry in written["extensions"]}
    basic = {"2.5.29.19": False, "2.5.29.14": False, "2.5.29.35": False}
    if form is Form.NULL:
        assert names == basic
    elif form is Form.LEGACY:
        assert names == {**basic, VENDOR + "8": False}
    else:
        assert names == {**basic, DICE: form in CRITICAL}


@pytest.mark.parametrize(("form", "name"), LIKE.items())
def test_every_form_equals_that_of_the_c_library(form: Form, name: str) -> None:
    """All bytes except key, dates, quote and signature are compared."""
    ours = asn1.Certificate.load(make(form))["tbs_certificate"]
    theirs = asn1.Certificate.load(vector(f"{name}.der"))["tbs_certificate"]
    for field in ("version", "serial_number", "signature", "issuer", "subject"):
        assert ours[field].dump() == theirs[field].dump(), field
    listed = [
        [(entry["extn_id"].dotted, entry["critical"].native) for entry in side["extensions"]]
        for side in (ours, theirs)
    ]
    assert listed[0] == listed[1]
    assert ours["extensions"][0].dump() == theirs["extensions"][0].dump()
    periods = [
        side["validity"]["not_after"].native - side["validity"]["not_before"].native
        for side in (ours, theirs)
    ]
    assert periods[0] == periods[1] == timedelta(days=365, hours=1)


def test_padding_has_the_sizes_of_the_c_library() -> None:
    """Claims of 128 bytes, pubkey-hash of 64, the extension a power of two."""
    padded = make(Form.CURRENT, garbage=GARBAGE)
    theirs = vector("6675532-tdx-client.der")
    for written, size in ((padded, 8192), (theirs, 8192)):
        value = der.read_certificate(written).extensions[der.oid(DICE)].value
        assert len(value) == size
        at = value.index(b"pubkey-hash") - 4
        assert value[at : at + 3] == bytes.fromhex("5880a1")  # byte string of 128, a map
        assert value[at + 15 : at + 17] == bytes.fromhex("5840")  # byte string of 64
    evidence = certificate.read(padded, TEES, now=NOW)
    assert evidence.binding is not None
    assert report_data(evidence.quote).startswith(evidence.binding)


@pytest.mark.parametrize("form", CLAIM_FORMS)
def test_nonce_and_custom_claims_are_sent(form: Form) -> None:
    evidence = certificate.read(make(form, claims={"nonce": b"n", "pod": b"p"}), TEES, now=NOW)
    assert evidence.binding != certificate.read(make(form), TEES, now=NOW).binding
    assert evidence.binding is not None
    assert report_data(evidence.quote).startswith(evidence.binding)


@pytest.mark.parametrize("form", CBOR_FORMS)
def test_endorsements_are_as_critical_as_the_evidence(form: Form) -> None:
    found = der.read_certificate(make(form, endorsements=collateral())).extensions
    assert found[der.oid(ENDORSEMENTS)].critical is (form in CRITICAL)


def test_the_legacy_form_of_sgx_has_its_own_oid() -> None:
    def sgx(data: bytes) -> bytes:
        return quote_for(data, tee_type=0)

    der_ = issue(Form.LEGACY, key=ec_key(), quote_for=sgx, now=NOW, oid=VENDOR + "6")
    assert certificate.read(der_, TEES, now=NOW).tee == "sgx"
    assert der.oid(VENDOR + "6") in der.read_certificate(der_).extensions


def test_the_null_form_has_no_evidence() -> None:
    """defects.md 7."""
    with pytest.raises(EvidenceMissing):
        certificate.read(make(Form.NULL), TEES, now=NOW)


@pytest.mark.parametrize(
    ("form", "options"),
    [
        (Form.LEGACY, {"claims": {"a": b""}}),
        (Form.BARE, {"claims": {"a": b""}}),
        (Form.LEGACY, {"endorsements": collateral()}),
        (Form.NULL, {"endorsements": collateral()}),
        (Form.CURRENT, {"claims": {"pubkey-hash": b""}}),
    ],
)
def test_a_form_refuses_what_it_cannot_carry(form: Form, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"cannot carry these|is reserved"):
        make(form, **options)


def test_evidence_is_never_omitted_silently() -> None:
    for form, quotes in ((Form.NULL, quote_for), (Form.CURRENT, None)):
        with pytest.raises(ValueError, match="null attester"):
            issue(form, key=ec_key(), quote_for=quotes, now=NOW)
