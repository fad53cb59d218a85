"""Generated collateral, verified by this project and by go-tdx-guest, which other people wrote.

Each case names the outcome of both, and the reason wherever they differ. `tools/tdxverify` runs
go-tdx-guest; `OTHER_VERIFIER_TABLE=1` prints both texts for each case.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.peers.clients import program
from tests.support.signers import signer_under
from tests.tees.support import NOW, REPORT_DATA, verify_tdx
from verdictd_py.errors import AttestationError, NotAppraised
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import Flaw, PlatformOptions, SimulatedPlatform, pki

DAY = timedelta(days=1)
VALID = pki.Validity(NOW - DAY, NOW + 30 * DAY)
TCB_SIGNING = "Intel SGX TCB Signing"
OPTIONS = PlatformOptions(fmspc="608060000000")
"""An FMSPC without letters: go-tdx-guest compares it as text, and Intel's answers have it in upper
case in some places."""
ROOT_URL = OPTIONS.root_crl_url


@dataclass(frozen=True)
class Case:
    """A quote, its collateral, and who accepts it.

    Attributes:
        differs: why the two verifiers differ; empty if they do not.
    """

    make: Callable[[SimulatedPlatform], tuple[bytes, Collateral]]
    ours: bool
    theirs: bool
    differs: str = ""


def good(platform: SimulatedPlatform) -> Collateral:
    return platform.collateral(NOW)


def named(platform: SimulatedPlatform, name: str, *, ca: bool = False) -> pki.Signer:
    """Return a certificate directly under the root, as only Intel can issue it."""
    return signer_under(platform.root, name, VALID, ca=ca, crl_url=ROOT_URL)


Maker = Callable[[SimulatedPlatform], tuple[bytes, Collateral]]
Signing = Callable[[SimulatedPlatform], tuple[pki.Signer, str]]


def with_collateral(change: Callable[[SimulatedPlatform], Collateral]) -> Maker:
    return lambda platform: (platform.quote(REPORT_DATA), change(platform))


def signed_by(part: str, signing: Signing) -> Maker:
    """Sign one text again, by another signer with another chain."""

    def change(platform: SimulatedPlatform) -> Collateral:
        collateral = good(platform)
        signer, chain = signing(platform)
        changes: dict[str, Any] = {
            f"{part}_signature": pki.sign_raw(signer.key, getattr(collateral, part).encode()),
            f"{part}_issuer_chain": chain,
        }
        return replace(collateral, **changes)

    return with_collateral(change)


def by_pck(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    return platform.pck, platform.pck.pem + platform.pck_ca.pem + platform.root.pem


def by_pck_and_root(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    return platform.pck, platform.pck.pem + platform.root.pem


def by_pck_ca(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    return platform.pck_ca, platform.pck_ca.pem + platform.root.pem


def by_other_leaf(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    signer = named(platform, "Intel SGX PCK Certificate")
    return signer, signer.pem + platform.root.pem


def by_ca_of_that_name(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    signer = named(platform, TCB_SIGNING, ca=True)
    return signer, signer.pem + platform.root.pem


def through_a_ca(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    between = pki.new_pck_ca(platform.root, "platform", VALID, ROOT_URL)
    signer = pki.new_tcb_signer(between, VALID, ROOT_URL)
    return signer, signer.pem + between.pem + platform.root.pem


def by_leaf_without_root(platform: SimulatedPlatform) -> tuple[pki.Signer, str]:
    return platform.tcb_signer, platform.tcb_signer.pem


def pck_crl_of(make: Callable[[SimulatedPlatform], pki.Signer]) -> Maker:
    def change(platform: SimulatedPlatform) -> Collateral:
        issuer = make(platform)
        return replace(
            good(platform),
            pck_crl_issuer_chain=issuer.pem + platform.root.pem,
            pck_crl=pki.new_crl(issuer, (), VALID),
        )

    return with_collateral(change)


def root_crl(make: Callable[[SimulatedPlatform], bytes]) -> Maker:
    return with_collateral(lambda platform: replace(good(platform), root_ca_crl=make(platform)))


def revoked_by_root(signer: str) -> Maker:
    return root_crl(
        lambda platform: pki.new_crl(platform.root, (getattr(platform, signer).certificate,), VALID)
    )


def issued(delay: timedelta) -> Maker:
    return with_collateral(lambda platform: platform.collateral(NOW + delay))


def parts_of(delay: timedelta, *parts: str) -> Maker:
    """Take some parts from collateral that was issued at another time."""

    def change(platform: SimulatedPlatform) -> Collateral:
        other = platform.collateral(NOW + delay)
        return replace(good(platform), **{part: getattr(other, part) for part in parts})

    return with_collateral(change)


def options(**changes: Any) -> Maker:
    def make(platform: SimulatedPlatform) -> tuple[bytes, Collateral]:
        other = platform.with_options(replace(OPTIONS, **changes))
        return other.quote(REPORT_DATA), good(other)

    return make


def flawed(flaw: Flaw) -> Maker:
    return lambda platform: (platform.quote(REPORT_DATA, flaw=flaw), good(platform))


ANY_CA = "go-tdx-guest does not read whether the signer is a CA; Intel's library refuses it"
NO_ISSUE_DATE = (
    "go-tdx-guest compares only the dates of expiry; collateral from the future means that this "
    "host's clock is wrong, so the guest is not appraised"
)
TCB_INFO = ("tcb_info", "tcb_info_signature")
QE_IDENTITY = ("qe_identity", "qe_identity_signature")

CASES = {
    "good": Case(with_collateral(good), ours=True, theirs=True),
    **{f"quote: {flaw.value}": Case(flawed(flaw), ours=False, theirs=False) for flaw in Flaw},
    **{
        f"{part}: {name}": Case(signed_by(part, signing), ours=False, theirs=bool(why), differs=why)
        for part in ("tcb_info", "qe_identity")
        for name, signing, why in (
            ("signed by a PCK leaf, chain of 3", by_pck, ""),
            ("signed by a PCK leaf, chain of 2", by_pck_and_root, ""),
            ("signed by the PCK CA", by_pck_ca, ""),
            ("signed by another leaf under the root", by_other_leaf, ""),
            ("signed by a CA of the signer's name", by_ca_of_that_name, ANY_CA),
            ("signed by a leaf through a CA, chain of 3", through_a_ca, ""),
            ("chain of 1", by_leaf_without_root, ""),
        )
    },
    "PCK CRL: of the other PCK CA": Case(
        pck_crl_of(lambda p: pki.new_pck_ca(p.root, "processor", VALID, ROOT_URL)),
        ours=False,
        theirs=False,
    ),
    "PCK CRL: of another CA under the root": Case(
        pck_crl_of(lambda p: named(p, "Intel Platform CA", ca=True)), ours=False, theirs=False
    ),
    "PCK CRL: of a leaf with the CA's name": Case(
        pck_crl_of(lambda p: named(p, "Intel SGX PCK Platform CA")), ours=False, theirs=False
    ),
    "root CRL: signed by the PCK CA": Case(
        root_crl(lambda p: pki.new_crl(pki.Signer(p.pck_ca.key, p.root.certificate), (), VALID)),
        ours=False,
        theirs=False,
    ),
    "revoked: PCK": Case(options(pck_revoked=True), ours=False, theirs=False),
    "revoked: PCK CA": Case(revoked_by_root("pck_ca"), ours=False, theirs=False),
    "revoked: TCB signer": Case(revoked_by_root("tcb_signer"), ours=False, theirs=False),
    "expired: all parts": Case(issued(-60 * DAY), ours=False, theirs=False),
    "expired: TCB info": Case(parts_of(-60 * DAY, *TCB_INFO), ours=False, theirs=False),
    "expired: QE identity": Case(parts_of(-60 * DAY, *QE_IDENTITY), ours=False, theirs=False),
    "expired: PCK CRL": Case(parts_of(-60 * DAY, "pck_crl"), ours=False, theirs=False),
    "expired: root CRL": Case(parts_of(-60 * DAY, "root_ca_crl"), ours=False, theirs=False),
    **{
        f"future: {name}": Case(make, ours=False, theirs=True, differs=NO_ISSUE_DATE)
        for name, make in {
            "all parts": issued(10 * DAY),
            "TCB info": parts_of(10 * DAY, *TCB_INFO),
            "QE identity": parts_of(10 * DAY, *QE_IDENTITY),
            "PCK CRL": parts_of(10 * DAY, "pck_crl"),
            "root CRL": parts_of(10 * DAY, "root_ca_crl"),
        }.items()
    },
    # Without memory both accept them. The broker's cache does not: tests/attack/test_rollback.py.
    "older, not expired: all parts": Case(issued(-20 * DAY), ours=True, theirs=True),
    "older, not expired: PCK CRL": Case(parts_of(-20 * DAY, "pck_crl"), ours=True, theirs=True),
    "TCB: OutOfDate": Case(options(tcb_status="OutOfDate"), ours=False, theirs=False),
    "TCB: Revoked": Case(options(tcb_status="Revoked"), ours=False, theirs=False),
}


@pytest.fixture(scope="module")
def platform() -> Iterator[SimulatedPlatform]:
    """Return a simulated platform whose certificates have Intel's names, which theirs requires."""
    name = pki._name
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pki, "_name", lambda text: name(text.replace("Simulated", "Intel")))
        yield SimulatedPlatform.create(now=NOW, options=OPTIONS)


@pytest.fixture(scope="module")
def made(platform: SimulatedPlatform) -> dict[str, tuple[bytes, Collateral]]:
    return {name: case.make(platform) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def theirs(
    platform: SimulatedPlatform, made: dict[str, tuple[bytes, Collateral]]
) -> dict[str, str]:
    """Return the errors of go-tdx-guest by case; empty: verified."""
    cases = {
        name: {
            "quote": base64.b64encode(evidence).decode(),
            "root": base64.b64encode(platform.root_ca_pem.encode()).decode(),
            "now": NOW.isoformat(),
            "answers": answers(collateral),
        }
        for name, (evidence, collateral) in made.items()
    }
    done = subprocess.run(
        [program("tdxverify")], input=json.dumps(cases).encode(), capture_output=True, check=True
    )
    outcomes: dict[str, str] = json.loads(done.stdout)
    return outcomes


@pytest.mark.parametrize("name", CASES)
def test_both_verifiers_decide_as_the_table_says(
    name: str,
    platform: SimulatedPlatform,
    made: dict[str, tuple[bytes, Collateral]],
    theirs: dict[str, str],
) -> None:
    case, (evidence, collateral) = CASES[name], made[name]
    ours = our_error(platform, evidence, collateral)
    if os.environ.get("OTHER_VERIFIER_TABLE"):
        sys.stdout.write(f"| {name} | {ours or 'verified'} | {theirs[name] or 'verified'} |\n")
    assert (ours == "", theirs[name] == "") == (case.ours, case.theirs), (ours, theirs[name])
    assert bool(case.differs) == (case.ours != case.theirs)


def our_error(platform: SimulatedPlatform, evidence: bytes, collateral: Collateral) -> str:
    """Return our reasons against a quote, or a TCB status for the policy; empty: up to date."""
    try:
        status = verify_tdx(evidence, collateral, root=platform.root_ca_der).tcb_status
    except (AttestationError, NotAppraised) as error:
        return "; ".join(reason.text for reason in getattr(error, "reasons", ())) or str(error)
    return "" if status == "UpToDate" else f"TCB status {status}: refused by the default policy"


def answers(collateral: Collateral) -> dict[str, Any]:
    """Return what Intel's service would answer, by path."""

    def answer(body: bytes, **headers: str) -> dict[str, Any]:
        encoded = {name.replace("_", "-"): [quote(text)] for name, text in headers.items()}
        return {"headers": encoded, "body": base64.b64encode(body).decode()}

    def signed(member: str, text: str, signature: bytes) -> bytes:
        return f'{{"{member}":{text},"signature":"{signature.hex()}"}}'.encode()

    return {
        "/sgx/certification/v4/pckcrl": answer(
            collateral.pck_crl, Sgx_Pck_Crl_Issuer_Chain=collateral.pck_crl_issuer_chain
        ),
        "/tdx/certification/v4/tcb": answer(
            signed("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
            Tcb_Info_Issuer_Chain=collateral.tcb_info_issuer_chain,
        ),
        "/tdx/certification/v4/qe/identity": answer(
            signed("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
            Sgx_Enclave_Identity_Issuer_Chain=collateral.qe_identity_issuer_chain,
        ),
        urlsplit(ROOT_URL).path: answer(collateral.root_ca_crl),
    }
