"""Answers of a provisioning certification service for the simulated platform, without IO.

An HTTP server that calls `pcs_answer` serves collateral sources, demos and rehearsals as Intel
or a PCCS does. Source of paths, parameters and headers: Intel
"API documentation of the Provisioning Certification Service", version 4; `rootcacrl` is
the PCCS's own ("Design Guide for the PCCS").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from urllib.parse import parse_qs, quote, urlsplit

from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator.options import ROOT_CRL_PATH
from verdictd_py.simulator.platform import SimulatedPlatform

_BINARY: Final = "application/pkix-crl"
_JSON: Final = "application/json"


@dataclass(frozen=True, slots=True)
class PcsAnswer:
    """One HTTP answer: status, headers (issuer chains percent-encoded), body."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


_NOT_FOUND: Final = PcsAnswer(404)
_Query = Mapping[str, list[str]]


def pcs_answer(platform: SimulatedPlatform, target: str, now: datetime) -> PcsAnswer:
    """Return the answer to `GET <target>`.

    Args:
        target: path and query as in the request line.
        now: aware time; the collateral is issued for it.

    Returns:
        200 with freshly signed collateral; 404 for another path, platform or CA.
    """
    parts = urlsplit(target)
    answer = _ROUTES.get(parts.path)
    if answer is None:
        return _NOT_FOUND
    return answer(platform, platform.collateral(now), parse_qs(parts.query))


def _pck_crl(platform: SimulatedPlatform, collateral: Collateral, query: _Query) -> PcsAnswer:
    # Only DER is supported: the default is PEM at Intel and hex at a PCCS.
    if query.get("ca") != [platform.options.ca] or query.get("encoding") != ["der"]:
        return _NOT_FOUND
    headers = {"SGX-PCK-CRL-Issuer-Chain": quote(collateral.pck_crl_issuer_chain)}
    return PcsAnswer(200, {"Content-Type": _BINARY, **headers}, collateral.pck_crl)


def _tcb_info(platform: SimulatedPlatform, collateral: Collateral, query: _Query) -> PcsAnswer:
    if [text.lower() for text in query.get("fmspc", [])] != [platform.options.fmspc.lower()]:
        return _NOT_FOUND
    return _signed(
        "tcbInfo",
        collateral.tcb_info,
        collateral.tcb_info_signature,
        {"TCB-Info-Issuer-Chain": quote(collateral.tcb_info_issuer_chain)},
    )


def _qe_identity(_: SimulatedPlatform, collateral: Collateral, __: _Query) -> PcsAnswer:
    return _signed(
        "enclaveIdentity",
        collateral.qe_identity,
        collateral.qe_identity_signature,
        {"SGX-Enclave-Identity-Issuer-Chain": quote(collateral.qe_identity_issuer_chain)},
    )


def _root_crl_hex(_: SimulatedPlatform, collateral: Collateral, __: _Query) -> PcsAnswer:
    body = collateral.root_ca_crl.hex().encode("ascii")
    return PcsAnswer(200, {"Content-Type": "text/html; charset=utf-8"}, body)


def _root_crl(_: SimulatedPlatform, collateral: Collateral, __: _Query) -> PcsAnswer:
    return PcsAnswer(200, {"Content-Type": _BINARY}, collateral.root_ca_crl)


def _signed(member: str, text: str, signature: bytes, headers: Mapping[str, str]) -> PcsAnswer:
    """Return the envelope of a signed document; it contains exactly the signed `text`."""
    body = f'{{"{member}":{text},"signature":"{signature.hex()}"}}'
    return PcsAnswer(200, {"Content-Type": _JSON, **headers}, body.encode("ascii"))


_Answer = Callable[[SimulatedPlatform, Collateral, _Query], PcsAnswer]

_ROUTES: Final[Mapping[str, _Answer]] = {
    "/sgx/certification/v4/pckcrl": _pck_crl,
    "/sgx/certification/v4/rootcacrl": _root_crl_hex,
    "/tdx/certification/v4/tcb": _tcb_info,
    "/tdx/certification/v4/qe/identity": _qe_identity,
    ROOT_CRL_PATH: _root_crl,
}
