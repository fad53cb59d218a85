"""Cases in which an independent verifier (go-tdx-guest) decided differently, and was right."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509

from tests.support.verifiers import verified_by
from tests.tees.support import (
    NOW,
    REPORT_DATA,
    Source,
    good_collateral,
    good_quote,
    platform,
    run,
    signed_again,
    tdx_evidence,
    verify_tdx,
)
from verdictd_py.errors import CollateralExpired, EvidenceExpired, QuoteInvalid
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform, TdMeasurements, pki
from verdictd_py.tees.intel.chains import root_key_digest
from verdictd_py.tees.intel.collateral.check import check_collateral
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.dcap import CollateralRejected
from verdictd_py.tees.intel.quote import parse_quote
from verdictd_py.tees.tdx.verifier import TdxVerifier

REQUEST = CollateralRequest("tdx", "50806f000000", "platform")


def changed(text: str, **members: Any) -> Collateral:
    """Return the good collateral, correctly signed, with other members in one of its texts."""
    result = {**json.loads(getattr(good_collateral(), text)), **members}
    return signed_again(good_collateral(), **{text: json.dumps(result, separators=(",", ":"))})


UNKNOWN: dict[str, Callable[[], Collateral]] = {
    "tcb_info of version 4": lambda: changed("tcb_info", version=4),
    "tcb_info without a version": lambda: changed("tcb_info", version=None),
    "qe_identity of version 3": lambda: changed("qe_identity", version=3),
}


@pytest.mark.parametrize("what", UNKNOWN)
def test_collateral_of_an_unknown_form_is_not_read(what: str) -> None:
    """Its members could have another meaning; dcap-qvl reads it nevertheless."""
    collateral = UNKNOWN[what]()
    with pytest.raises(CollateralRejected):  # dcap-qvl, or we after it
        verify_tdx(good_quote(), collateral)
    key = root_key_digest(platform().root_ca_der)
    with pytest.raises(CollateralRejected, match="version"):
        check_collateral(collateral, REQUEST, root_key=key, now=NOW)
    assert verify_tdx(good_quote(), collateral, good_collateral()).tcb_status == "UpToDate"


def test_tcb_info_is_for_the_pce_that_certified_the_platform() -> None:
    other = changed("tcb_info", pceId="0001")
    with pytest.raises(CollateralRejected, match="PCE"):
        verify_tdx(good_quote(), other)
    assert verify_tdx(good_quote(), other, good_collateral()).tcb_status == "UpToDate"
    assert verify_tdx(good_quote(), changed("tcb_info", pceId="0000")).faults == ()


@pytest.mark.parametrize("td", [TdMeasurements(), TdMeasurements().debug()])
def test_a_module_missing_from_the_collateral_is_refused(td: TdMeasurements) -> None:
    """This used to be an internal error: `next` on an empty iterator in a coroutine."""
    quote = platform().quote(REPORT_DATA, td)
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(quote, changed("tcb_info", tdxModuleIdentities=[]))
    assert caught.value.reasons[0].rule == "tdx-module"


def with_root(root: pki.Signer) -> bytes:
    """Return a quote whose chain ends at another certificate for the root's key."""
    quote = parse_quote(good_quote())
    chain = quote.pck_chain.replace(platform().root.pem.encode(), root.pem.encode())
    assert chain != quote.pck_chain
    certification = quote.raw[quote.raw.index(quote.qe_report) : quote.raw.index(quote.pck_chain)]
    certification = certification[:-4] + struct.pack("<I", len(chain)) + chain
    nested = struct.pack("<HI", 6, len(certification)) + certification
    data = quote.signature + quote.attestation_key + nested
    return quote.signed + struct.pack("<I", len(data)) + data


def renewed_root(ends: timedelta) -> pki.Signer:
    """Return a certificate for the root's key that expires this long after NOW."""
    root = platform().root
    validity = pki.Validity(NOW - timedelta(days=1), NOW + ends)
    made = pki.new_root(validity, platform().options.root_crl_url, key=root.key)
    assert made.certificate.subject == root.certificate.subject
    return made


def test_the_root_of_a_chain_expires_too() -> None:
    """Intel's own library includes its dates in those of the collateral."""
    assert verify_tdx(with_root(renewed_root(timedelta(hours=1)))).tcb_status == "UpToDate"
    with pytest.raises(EvidenceExpired):  # the quote carries the same root
        verify_tdx(with_root(renewed_root(timedelta(hours=-1))))


def test_the_root_of_a_chain_must_be_self_signed() -> None:
    """Only its key is trusted; a certificate with this key that is not self-signed is refused."""
    der = bytearray(platform().root.der)
    der[-1] ^= 1
    forged = pki.Signer(platform().root.key, x509.load_der_x509_certificate(bytes(der)))
    with pytest.raises(QuoteInvalid) as caught:
        verify_tdx(with_root(forged))
    assert caught.value.reasons[0].rule == "pck-chain"


def ending(which: str) -> SimulatedPlatform:
    """Return a platform with a certificate that expires an hour after NOW."""
    made = platform()
    url = made.options.root_crl_url
    ends = dict.fromkeys(("root", "pck_ca", "pck", "tcb_signer"), timedelta(days=3650))
    ends[which] = timedelta(hours=1)
    valid = {
        name: pki.Validity(NOW - timedelta(days=1), NOW + after) for name, after in ends.items()
    }
    root = pki.new_root(valid["root"], url)
    pck_ca = pki.new_pck_ca(root, made.options.ca, valid["pck_ca"], url)
    return replace(
        made,
        root=root,
        pck_ca=pck_ca,
        pck=pki.new_pck(pck_ca, made.identity, valid["pck"], made.options.pck_crl_url),
        tcb_signer=pki.new_tcb_signer(root, valid["tcb_signer"], url),
    )


@pytest.mark.parametrize("which", ["root", "pck_ca", "pck", "tcb_signer"])
@pytest.mark.parametrize("grace", [timedelta(0), timedelta(days=30)])
def test_an_expired_certificate_is_refused(which: str, grace: timedelta) -> None:
    """This holds for every certificate: the grace period is for collateral only."""
    made = ending(which)
    verifier = TdxVerifier(Source(made.collateral(NOW)), root_ca_der=made.root_ca_der, grace=grace)
    evidence = tdx_evidence(made.quote(REPORT_DATA))
    for minutes, good in ((59, True), (61, False)):
        work = verified_by(verifier, evidence, now=NOW + timedelta(minutes=minutes))
        if good:
            assert run(work).tcb_status == "UpToDate"
        else:
            with pytest.raises(CollateralExpired if which == "tcb_signer" else EvidenceExpired):
                run(work)
