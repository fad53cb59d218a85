"""Simulated collateral has the shape of collateral that other verifiers accept."""

from __future__ import annotations

import json
from typing import Any

import dcap_qvl
import pytest

from tests.simulator.support import NOW
from tests.support.vectors import vector
from verdictd_py.simulator import SimulatedPlatform, collateral_json


@pytest.fixture(scope="module")
def accepted() -> dict[str, str]:
    members: dict[str, str] = json.loads(vector("rats-tls/collateral.json").read_text())
    return members


def _shape(value: Any) -> Any:
    """Return names and types, with only the first element of lists."""
    if isinstance(value, dict):
        return {key: _shape(member) for key, member in value.items() if key != "advisoryIDs"}
    if isinstance(value, list):
        return [len(value) if value and "svn" in value[0] else 1, _shape(value[0])]
    return type(value).__name__


def test_members_are_those_of_accepted_collateral(
    platform: SimulatedPlatform, accepted: dict[str, str]
) -> None:
    ours = json.loads(collateral_json(platform.collateral(NOW)))
    assert list(ours) == list(accepted)
    for name in ("tcb_info", "qe_identity"):
        theirs_inner, ours_inner = json.loads(accepted[name]), json.loads(ours[name])
        assert _shape(ours_inner) == _shape(theirs_inner)
        assert (ours_inner["id"], ours_inner["version"]) == (
            theirs_inner["id"],
            theirs_inner["version"],
        )
        assert " " not in ours[name]
    for name in ("tcb_info_signature", "qe_identity_signature"):
        assert len(bytes.fromhex(ours[name])) == len(bytes.fromhex(accepted[name])) == 64
    for name in ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain"):
        assert ours[name].count("BEGIN CERTIFICATE") == accepted[name].count("BEGIN CERTIFICATE")


def test_json_form_is_read_back_by_dcap_qvl(platform: SimulatedPlatform) -> None:
    collateral = platform.collateral(NOW)
    theirs = dcap_qvl.QuoteCollateralV3.from_json(collateral_json(collateral))
    for name in type(collateral).__slots__:
        assert getattr(theirs, name) == getattr(collateral, name), name
