"""dcap-qvl accepts collateral that is assembled from PCS answers."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from cryptography import x509

from tests.simulator.support import NOW, judge
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform, pcs_answer

PCKCRL = "/sgx/certification/v4/pckcrl?ca=platform&encoding=der"
TCB = "/tdx/certification/v4/tcb?fmspc=50806F000000"
QE = "/tdx/certification/v4/qe/identity"
ROOT_CRL = "/sgx/certification/v4/rootcacrl"


def _inner(body: bytes, member: str) -> tuple[str, bytes]:
    """Return the signed text and the signature from the envelope, as a client must."""
    head, tail = f'{{"{member}":', ',"signature":"'
    text, signature = body.decode()[len(head) : -2].rsplit(tail, 1)
    return text, bytes.fromhex(signature)


@pytest.mark.parametrize("status", ["UpToDate", "OutOfDate"])
def test_fetched_collateral_is_accepted(platform: SimulatedPlatform, status: str) -> None:
    changed = platform.with_options(PlatformOptions(tcb_status=status))  # type: ignore[arg-type]  # a table of literals
    pck_crl, tcb, qe, root = (
        pcs_answer(changed, target, NOW) for target in (PCKCRL, TCB, QE, ROOT_CRL)
    )
    assert [answer.status for answer in (pck_crl, tcb, qe, root)] == [200] * 4
    tcb_info, tcb_info_signature = _inner(tcb.body, "tcbInfo")
    qe_identity, qe_identity_signature = _inner(qe.body, "enclaveIdentity")
    fetched = Collateral(
        pck_crl_issuer_chain=unquote(pck_crl.headers["SGX-PCK-CRL-Issuer-Chain"]),
        root_ca_crl=bytes.fromhex(root.body.decode()),
        pck_crl=pck_crl.body,
        tcb_info_issuer_chain=unquote(tcb.headers["TCB-Info-Issuer-Chain"]),
        tcb_info=tcb_info,
        tcb_info_signature=tcb_info_signature,
        qe_identity_issuer_chain=unquote(qe.headers["SGX-Enclave-Identity-Issuer-Chain"]),
        qe_identity=qe_identity,
        qe_identity_signature=qe_identity_signature,
    )
    claims = judge(platform.quote(bytes(64)), fetched, platform.root_ca_der)
    assert claims["tcb"]["status"] == status
    for answer in (pck_crl, tcb, qe, root):
        assert not any("\n" in value for value in answer.headers.values())


def test_root_crl_is_where_the_certificates_say(platform: SimulatedPlatform) -> None:
    url = platform.options.root_crl_url.removeprefix(platform.options.pcs_url)
    crl = x509.load_der_x509_crl(pcs_answer(platform, url, NOW).body)
    assert crl.issuer == platform.root.certificate.subject
    pck_url = platform.options.pck_crl_url.removeprefix(platform.options.pcs_url)
    crl = x509.load_der_x509_crl(pcs_answer(platform, pck_url, NOW).body)
    assert crl.issuer == platform.pck_ca.certificate.subject


@pytest.mark.parametrize(
    "target",
    [
        "",
        "/",
        "*",
        "/sgx/certification/v4/pckcrl",
        "/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
        "/sgx/certification/v4/pckcrl?ca=platform",
        "/sgx/certification/v4/tcb?fmspc=50806F000000",
        "/tdx/certification/v4/tcb",
        "/tdx/certification/v4/tcb?fmspc=00806F050000",
    ],
)
def test_anything_else_is_not_found(platform: SimulatedPlatform, target: str) -> None:
    answer = pcs_answer(platform, target, NOW)
    assert (answer.status, answer.body) == (404, b"")
