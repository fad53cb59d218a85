"""Revocation lists of collateral: signed by the right CA under the root, and valid now."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.signers import signer_under
from tests.tees.support import NOW, good_collateral, platform, signed_again
from verdictd_py.errors import CollateralExpired, CollateralUnavailable, QuoteInvalid, ReasonKind
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform, pki
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import Validity, check_collateral
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.dcap import CollateralRejected

REQUEST = CollateralRequest("tdx", "50806f000000", "platform")
DAY = timedelta(days=1)
VALID = pki.Validity(NOW - DAY, NOW + 30 * DAY)


def check(collateral: Collateral, now: datetime = NOW, **changes: str) -> Validity:
    key = root_key_digest(platform().root_ca_der)
    request = replace(REQUEST, **changes)
    return check_collateral(collateral, request, root_key=key, now=now)


def test_valid_collateral_is_accepted() -> None:
    validity = check(good_collateral())
    assert (validity.start, validity.end) == (NOW - DAY, NOW + 30 * DAY)


def test_the_chain_of_the_crl_issuer_leads_to_the_root() -> None:
    """Another root, whose CRLs revoke nothing, must not replace the trusted one."""
    other = SimulatedPlatform.create(now=NOW).collateral(NOW)
    forged = replace(
        good_collateral(),
        pck_crl_issuer_chain=other.pck_crl_issuer_chain,
        pck_crl=other.pck_crl,
        root_ca_crl=other.root_ca_crl,
    )
    with pytest.raises(QuoteInvalid, match="certificate chain does not verify"):
        check(forged)


CRLS = {"pck_crl": "pck_ca", "root_ca_crl": "root"}


def with_bytes(name: str, crl: bytes) -> Collateral:
    changes: dict[str, Any] = {name: crl}
    return replace(good_collateral(), **changes)


def with_crl(name: str, validity: pki.Validity) -> Collateral:
    crl = pki.new_crl(getattr(platform(), CRLS[name]), (), validity)
    return with_bytes(name, crl)


@pytest.mark.parametrize("name", CRLS)
def test_the_first_crl_to_expire_ends_the_validity(name: str) -> None:
    collateral = with_crl(name, pki.Validity(NOW - DAY, NOW + DAY))
    assert check(collateral).end == NOW + DAY
    with pytest.raises(CollateralExpired):
        check(collateral, NOW + DAY + timedelta(seconds=1))


@pytest.mark.parametrize("name", CRLS)
def test_a_crl_that_is_not_valid_yet_is_not_used(name: str) -> None:
    collateral = with_crl(name, pki.Validity(NOW + DAY, NOW + 9 * DAY))
    with pytest.raises(CollateralUnavailable, match="check this host's clock"):
        check(collateral)
    assert check(collateral, NOW + DAY).start == NOW + DAY


def sequence(content: bytes) -> bytes:
    """Return a DER SEQUENCE with a length of at most two bytes."""
    size = len(content)
    form = b"\x82" + size.to_bytes(2) if size > 255 else b"\x81" + size.to_bytes(1)
    return b"\x30" + (form if size > 127 else size.to_bytes(1)) + content


def without_next_update(crl: bytes, key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return the CRL without its next update, signed again; no library writes that."""
    body = x509.load_der_x509_crl(crl).tbs_certlist_bytes
    header = 2 + (body[1] & 0x7F if body[1] & 0x80 else 0)
    at = body.index(b"\x17\x0d")  # UTCTime of the last update, 15 bytes; then the next update
    assert body[at + 15 : at + 17] == b"\x17\x0d"
    signed = sequence(body[header : at + 15] + body[at + 30 :])
    signature = b"\0" + key.sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256
    return sequence(signed + algorithm + b"\x03" + len(signature).to_bytes(1) + signature)


@pytest.mark.parametrize("name", CRLS)
def test_a_crl_without_a_next_update_is_refused(name: str) -> None:
    """It would never expire, and so hide later revocations."""
    key = getattr(platform(), CRLS[name]).key
    crl = without_next_update(getattr(good_collateral(), name), key)
    assert x509.load_der_x509_crl(crl).is_signature_valid(key.public_key())
    with pytest.raises(CollateralRejected, match="no next update") as caught:
        check(with_bytes(name, crl))
    assert [reason.rule for reason in caught.value.reasons] == ["collateral"]


@pytest.mark.parametrize("name", CRLS)
def test_a_crl_with_the_name_of_another_issuer_is_refused(name: str) -> None:
    """The signature is valid, but it is the list of another CA."""
    others = {"pck_crl": platform().root, "root_ca_crl": platform().pck_ca}
    key = getattr(platform(), CRLS[name]).key
    crl = pki.new_crl(pki.Signer(key, others[name].certificate), (), VALID)
    assert x509.load_der_x509_crl(crl).is_signature_valid(key.public_key())
    with pytest.raises(CollateralRejected, match="not signed by its issuer"):
        check(with_bytes(name, crl))


@pytest.mark.parametrize("name", CRLS)
def test_a_crl_signed_by_another_key_is_refused(name: str) -> None:
    issuer = getattr(platform(), CRLS[name])
    crl = pki.new_crl(pki.Signer(pki.new_key(), issuer.certificate), (), VALID)
    with pytest.raises(CollateralRejected, match="not signed by its issuer"):
        check(with_bytes(name, crl))


def issued_by(signer: pki.Signer) -> Collateral:
    return replace(
        good_collateral(),
        pck_crl_issuer_chain=signer.pem + platform().root.pem,
        pck_crl=pki.new_crl(signer, (), VALID),
    )


def test_the_crl_of_another_ca_is_refused() -> None:
    """The list of the other CA under the same root does not cover this platform's certificate."""
    url = platform().options.root_crl_url
    processor = pki.new_pck_ca(platform().root, "processor", VALID, url)
    with pytest.raises(CollateralRejected, match="not that of the platform CA"):
        check(issued_by(processor))


@pytest.mark.parametrize(("is_ca", "signs_crls"), [(False, True), (True, False)])
def test_the_issuer_of_a_crl_is_a_ca_that_may_sign_it(is_ca: bool, signs_crls: bool) -> None:
    """A certificate under the root has the name of the CA, but is not a CA."""
    name = platform().pck_ca.certificate.subject
    issuer = signer_under(platform().root, name, VALID, ca=is_ca, signs_crls=signs_crls)
    with pytest.raises(CollateralRejected, match="not a CA that may sign"):
        check(issued_by(issuer))


@pytest.mark.parametrize("name", ["tcb_signer", "pck_ca"])
def test_a_signer_that_the_root_revoked_is_refused(name: str) -> None:
    revoked = getattr(platform(), name).certificate
    crl = pki.new_crl(platform().root, (revoked,), VALID)
    with pytest.raises(QuoteInvalid, match="revoked a certificate that signed"):
        check(with_bytes("root_ca_crl", crl))


def test_a_revoked_platform_leaves_the_collateral_as_it_is() -> None:
    """The quote's own check finds it: the same collateral serves the other platforms."""
    crl = pki.new_crl(platform().pck_ca, (platform().tcb_signer.certificate,), VALID)
    assert check(with_bytes("pck_crl", crl))


class TestPlatformType:
    def texts(self, **ids: str) -> Collateral:
        info = json.loads(good_collateral().tcb_info)
        identity = json.loads(good_collateral().qe_identity)
        info["id"], identity["id"] = ids.get("info", "TDX"), ids.get("identity", "TD_QE")
        return signed_again(
            good_collateral(), tcb_info=json.dumps(info), qe_identity=json.dumps(identity)
        )

    @pytest.mark.parametrize(
        ("tee", "info", "identity"),
        [
            ("sgx", "TDX", "TD_QE"),
            ("csv", "TDX", "TD_QE"),
            ("tdx", "SGX", "QE"),
            ("tdx", "SGX", "TD_QE"),
            ("tdx", "TDX", "QE"),
            ("tdx", "TDX", "QVE"),
        ],
    )
    def test_both_texts_are_for_the_tee(self, tee: str, info: str, identity: str) -> None:
        with pytest.raises(CollateralRejected, match=f"not for {tee}"):
            check(self.texts(info=info, identity=identity), tee=tee)

    def test_collateral_of_the_tee_is_accepted(self) -> None:
        assert check(self.texts(info="SGX", identity="QE"), tee="sgx")

    def test_collateral_of_another_fmspc_is_refused(self) -> None:
        with pytest.raises(CollateralRejected, match="another FMSPC"):
            check(good_collateral(), fmspc="00906ed50000")


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_the_lower_evaluation_number_counts(name: str) -> None:
    """`minimum_evaluation` refuses collateral of which one half is old."""
    members = json.loads(getattr(good_collateral(), name))
    number = members["tcbEvaluationDataNumber"]
    members["tcbEvaluationDataNumber"] = number - 1
    older = signed_again(good_collateral(), **{name: json.dumps(members)})
    assert check(good_collateral()).evaluation_number == number
    assert check(older).evaluation_number == number - 1


def test_the_validity_includes_both_ends_and_nothing_outside() -> None:
    collateral = with_crl("pck_crl", pki.Validity(NOW - DAY, NOW + DAY))
    for inside in (NOW - DAY, NOW + DAY):
        assert check(collateral, inside)
    with pytest.raises(CollateralExpired) as refused:
        check(collateral, NOW + DAY + timedelta(seconds=1))
    (reason,) = refused.value.reasons
    assert reason.as_json() == {
        "rule": "collateral",
        "measured": "2026-11-25T12:00:01+00:00",
        "expected": "2026-11-23T12:00:00+00:00 to 2026-11-25T12:00:00+00:00",
        "text": "the collateral is outside its validity",
    }
    assert reason.kind is ReasonKind.COLLATERAL


def test_a_rejection_has_its_text_as_the_reason() -> None:
    with pytest.raises(CollateralRejected) as refused:
        check(good_collateral(), fmspc="00906ed50000")
    (reason,) = refused.value.reasons
    assert (reason.rule, reason.measured, reason.expected) == ("tcb-info", "", "")
    assert reason.text == str(refused.value)
    assert reason.kind is ReasonKind.COLLATERAL


@pytest.mark.parametrize(
    ("name", "rule"), [("tcb_info", "tcb-info"), ("qe_identity", "qe-identity")]
)
def test_a_changed_text_is_named_in_the_reason(name: str, rule: str) -> None:
    changes: dict[str, Any] = {name: getattr(good_collateral(), name) + " "}
    with pytest.raises(QuoteInvalid) as refused:
        check(replace(good_collateral(), **changes))
    assert [reason.rule for reason in refused.value.reasons] == [rule]


@pytest.mark.parametrize(("name", "version"), [("tcb_info", 2), ("qe_identity", 3)])
def test_another_version_is_refused(name: str, version: int) -> None:
    members = json.loads(getattr(good_collateral(), name)) | {"version": version}
    changed = signed_again(good_collateral(), **{name: json.dumps(members)})
    with pytest.raises(CollateralRejected, match="TCB info and QE identity have the versions"):
        check(changed)
