"""Collateral that is signed under Intel's root, but by a certificate that may not sign it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.support.signers import signer_under
from tests.support.verifiers import verified_by
from tests.tees.support import NOW, good_collateral, good_quote, platform, tdx_evidence, verify_tdx
from verdictd_py.errors import (
    CollateralExpired,
    CollateralUnavailable,
    QuoteInvalid,
    Reason,
    ReasonKind,
    VerdictdError,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import pki
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import check_collateral
from verdictd_py.tees.intel.collateral.forms import collateral_to_json
from verdictd_py.tees.intel.collateral.port import CollateralRequest, CollateralSource
from verdictd_py.tees.intel.collateral.sources import EndorsementsOnly, FileCollateral
from verdictd_py.tees.tdx.verifier import TdxVerifier

REQUEST = CollateralRequest("tdx", "50806f000000", "platform")
DAY = timedelta(days=1)
VALID = pki.Validity(NOW - DAY, NOW + 30 * DAY)
TCB_SIGNING = "Simulated SGX TCB Signing"


def under_root(name: str, *, ca: bool = False) -> pki.Signer:
    """Return a certificate directly under the trusted root, as only Intel can issue it."""
    return signer_under(platform().root, name, VALID, ca=ca)


def signed_with(signer: pki.Signer, chain: str, *parts: str) -> Collateral:
    """Return good collateral whose texts `parts` are signed by another signer."""
    collateral = good_collateral()
    for part in parts:
        signature = pki.sign_raw(signer.key, getattr(collateral, part).encode())
        changes = {f"{part}_signature": signature, f"{part}_issuer_chain": chain}
        collateral = replace(collateral, **changes)  # type: ignore[arg-type]  # names of members
    return collateral


def refused_when_stored(collateral: Collateral, says: str, rule: str) -> None:
    key = root_key_digest(platform().root_ca_der)
    with pytest.raises(QuoteInvalid) as caught:
        check_collateral(collateral, REQUEST, root_key=key, now=NOW)
    (reason,) = caught.value.reasons
    assert says in reason.text
    assert reason == Reason(rule, "", "", reason.text, kind=ReasonKind.COLLATERAL)


def refused_when_used(collateral: Collateral, says: str) -> None:
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(good_quote(), collateral)
    assert says in caught.value.reasons[0].text


def refused(collateral: Collateral, says: str, *, rule: str = "revocation") -> None:
    """Require a refusal when the collateral is stored, and when a guest is appraised with it.

    Args:
        says: part of the reason's text.
        rule: name of the part that does not verify.
    """
    refused_when_stored(collateral, says, rule)
    refused_when_used(collateral, says)


RULES = {"tcb_info": "tcb-info", "qe_identity": "qe-identity"}
PARTS = list(RULES)


@pytest.mark.parametrize("part", PARTS)
def test_a_text_signed_with_the_pck_of_a_machine(part: str) -> None:
    """The attack that was reproduced: one extracted PCK made an old platform `UpToDate`."""
    pck = platform().pck
    chain = pck.pem + platform().pck_ca.pem + platform().root.pem
    refused(signed_with(pck, chain, part), "3 certificates instead of 2", rule=RULES[part])


@pytest.mark.parametrize("part", PARTS)
def test_a_text_signed_with_the_pck_ca(part: str) -> None:
    ca = platform().pck_ca
    collateral = signed_with(ca, ca.pem + platform().root.pem, part)
    refused(collateral, "not a TCB signing certificate", rule=RULES[part])


@pytest.mark.parametrize("part", PARTS)
def test_a_text_signed_with_a_leaf_of_another_name(part: str) -> None:
    other = under_root("Simulated SGX PCK Certificate")
    chain = other.pem + platform().root.pem
    refused(signed_with(other, chain, part), "not a TCB signing certificate", rule=RULES[part])


@pytest.mark.parametrize("part", PARTS)
def test_a_text_signed_with_a_ca_that_is_named_like_the_tcb_signer(part: str) -> None:
    other = under_root(TCB_SIGNING, ca=True)
    collateral = signed_with(other, other.pem + platform().root.pem, part)
    refused(collateral, "certificate is a CA", rule=RULES[part])


@pytest.mark.parametrize("part", PARTS)
def test_a_tcb_signing_chain_with_another_certificate_in_it(part: str) -> None:
    """The leaf has the right name, but a CA between issued it."""
    between = pki.new_pck_ca(platform().root, "platform", VALID, "https://pcs.test/root.der")
    leaf = pki.new_tcb_signer(between, VALID, "https://pcs.test/root.der")
    chain = leaf.pem + between.pem + platform().root.pem
    refused(signed_with(leaf, chain, part), "3 certificates instead of 2", rule=RULES[part])


@pytest.mark.parametrize("part", PARTS)
def test_a_tcb_signing_chain_that_ends_at_another_root(part: str) -> None:
    root = pki.new_root(VALID, "https://pcs.test/root.crl")
    leaf = pki.new_tcb_signer(root, VALID, "https://pcs.test/root.der")
    collateral = signed_with(leaf, leaf.pem + root.pem, part)
    refused(collateral, "does not end at the trusted root", rule=RULES[part])


@pytest.mark.parametrize("part", PARTS)
def test_a_text_whose_signer_has_expired(part: str) -> None:
    """The collateral has expired, not the evidence: newer collateral may be tried."""
    expired = pki.Validity(NOW - 2 * DAY, NOW - DAY)
    leaf = pki.new_tcb_signer(platform().root, expired, "https://pcs.test/root.der")
    collateral = signed_with(leaf, leaf.pem + platform().root.pem, part)
    key = root_key_digest(platform().root_ca_der)
    with pytest.raises(CollateralExpired, match="outside its validity"):
        check_collateral(collateral, REQUEST, root_key=key, now=NOW)
    with pytest.raises(CollateralExpired):
        verify_tdx(good_quote(), collateral)


def test_a_pck_crl_chain_that_ends_at_another_root() -> None:
    root = pki.new_root(VALID, "https://pcs.test/root.crl")
    ca = pki.new_pck_ca(root, "platform", VALID, "https://pcs.test/root.der")
    collateral = replace(
        good_collateral(),
        pck_crl_issuer_chain=ca.pem + root.pem,
        pck_crl=pki.new_crl(ca, (), VALID),
    )
    refused(collateral, "does not end at the trusted root")


def test_a_pck_crl_of_a_ca_with_another_name() -> None:
    """A CA that is named by the platform, but is not Intel's PCK CA."""
    other = under_root("Simulated Platform CA", ca=True)
    collateral = replace(
        good_collateral(),
        pck_crl_issuer_chain=other.pem + platform().root.pem,
        pck_crl=pki.new_crl(other, (), VALID),
    )
    refused(collateral, "not that of the platform CA")


def test_the_pck_crl_of_the_other_pck_ca() -> None:
    """The processor CA's list does not cover this platform's certificate."""
    other = pki.new_pck_ca(platform().root, "processor", VALID, "https://pcs.test/root.der")
    collateral = replace(
        good_collateral(),
        pck_crl_issuer_chain=other.pem + platform().root.pem,
        pck_crl=pki.new_crl(other, (), VALID),
    )
    refused(collateral, "not that of the platform CA")


def test_a_pck_crl_issued_by_a_leaf_that_is_named_like_the_pck_ca() -> None:
    leaf = under_root("Simulated SGX PCK Platform CA")
    collateral = replace(
        good_collateral(),
        pck_crl_issuer_chain=leaf.pem + platform().root.pem,
        pck_crl=pki.new_crl(leaf, (), VALID),
    )
    refused(collateral, "not a CA that may sign one")


def test_a_pck_crl_chain_with_another_certificate_in_it() -> None:
    chain = platform().pck.pem + platform().pck_ca.pem + platform().root.pem
    refused(replace(good_collateral(), pck_crl_issuer_chain=chain), "3 certificates instead of 2")


def test_a_root_crl_signed_with_the_pck_ca() -> None:
    forged = pki.new_crl(pki.Signer(platform().pck_ca.key, platform().root.certificate), (), VALID)
    refused(replace(good_collateral(), root_ca_crl=forged), "not signed by its issuer")


@pytest.mark.parametrize("signer", ["tcb_signer", "pck_ca"])
def test_collateral_with_a_revoked_signer(signer: str) -> None:
    """It is refused when it is stored, and when it is used, and other sets are not tried then."""
    revoked = (getattr(platform(), signer).certificate,)
    collateral = replace(
        good_collateral(), root_ca_crl=pki.new_crl(platform().root, revoked, VALID)
    )
    text = "Intel has revoked a certificate that signed the collateral"
    refused(collateral, f"{text}: {revoked[0].subject.rfc4514_string()}")
    with pytest.raises(QuoteInvalid, match=f"^{text}$"):
        verify_tdx(good_quote(), collateral, good_collateral())


def from_files(collateral: Collateral, directory: Path) -> CollateralSource:
    (directory / "collateral.json").write_text(collateral_to_json(collateral))
    return FileCollateral(directory)


def from_the_guest(collateral: Collateral, directory: Path) -> CollateralSource:
    del collateral, directory  # the evidence contains it
    return EndorsementsOnly()


@pytest.mark.parametrize(
    ("source", "error"), [(from_files, CollateralUnavailable), (from_the_guest, QuoteInvalid)]
)
def test_the_signer_is_checked_whatever_the_source(
    tmp_path: Path,
    source: Callable[[Collateral, Path], CollateralSource],
    error: type[VerdictdError],
) -> None:
    pck = platform().pck
    chain = pck.pem + platform().pck_ca.pem + platform().root.pem
    collateral = signed_with(pck, chain, *PARTS)
    verifier = TdxVerifier(source(collateral, tmp_path), root_ca_der=platform().root_ca_der)
    with pytest.raises(error) as caught:
        asyncio.run(verified_by(verifier, tdx_evidence(good_quote(), collateral), now=NOW))
    texts = [reason.text for reason in getattr(caught.value, "reasons", ())]
    assert "3 certificates instead of 2" in " ".join((str(caught.value), *texts))
