"""Peers are created only from accepted appraisals that are bound to a channel."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.evidence import VerifiedEvidence
from verdictd_py.errors import AttestationError, PolicyRefused, Reason, ReasonKind

EVIDENCE = VerifiedEvidence(
    tee="tdx",
    report_data=bytes(64),
    claims={"mrTd": "ab", "debug": False},
    tcb_status="UpToDate",
    advisory_ids=("INTEL-SA-00615",),
    digest="00" * 32,
)
ACCEPTED = Appraisal(
    id="0123",
    at=datetime(2026, 11, 24, tzinfo=UTC),
    tee="tdx",
    form="test",
    evidence=EVIDENCE,
    bound=True,
    refusal=None,
)
REASON = Reason("mrTd", "ab", "cd", "mrTd: measured ab, expected cd")
REFUSED = replace(ACCEPTED, refusal=PolicyRefused("refused by policy: mrTd", reasons=(REASON,)))


def test_an_accepted_appraisal_yields_a_peer() -> None:
    peer = AppraisedPeer.of(ACCEPTED, address="192.0.2.1:5")
    assert (peer.appraisal_id, peer.tee, peer.address) == ("0123", "tdx", "192.0.2.1:5")
    assert peer.claims == EVIDENCE.claims
    assert "mrTd" not in repr(peer)


def test_a_peer_without_evidence_has_no_tee() -> None:
    """defects.md 7: only `nullverifier` accepts such a peer, and its TEE is `none`."""
    anyone = replace(ACCEPTED, tee="none", evidence=None)
    assert AppraisedPeer.of(anyone, address="").tee == "none"
    with pytest.raises(ValueError, match="the evidence is of none, not of tdx"):
        AppraisedPeer.of(replace(ACCEPTED, evidence=None), address="")


def test_evidence_of_another_tee_yields_no_peer() -> None:
    with pytest.raises(ValueError, match="the evidence is of tdx, not of sgx"):
        AppraisedPeer.of(replace(ACCEPTED, tee="sgx"), address="")


def test_a_refused_appraisal_raises_its_refusal() -> None:
    """defects.md 7, 8: a refused guest cannot request secrets."""
    with pytest.raises(PolicyRefused) as refused:
        AppraisedPeer.of(REFUSED, address="")
    assert refused.value is REFUSED.refusal


@pytest.mark.parametrize("appraisal", [replace(ACCEPTED, bound=False), replace(ACCEPTED, tee=None)])
def test_an_appraisal_without_a_channel_yields_no_peer(appraisal: Appraisal) -> None:
    assert appraisal.accepted
    with pytest.raises(ValueError, match="not bound to a channel"):
        AppraisedPeer.of(appraisal, address="")


def test_the_refusal_is_raised_first() -> None:
    with pytest.raises(AttestationError):
        AppraisedPeer.of(replace(REFUSED, bound=False, evidence=None), address="")


def test_a_peer_cannot_be_created_directly() -> None:
    made: Callable[..., AppraisedPeer] = AppraisedPeer
    values: dict[str, Any] = {
        "appraisal_id": "x",
        "tee": "tdx",
        "address": "",
        "platform": None,
        "claims": {},
        "trust": {},
    }
    peer = AppraisedPeer.of(ACCEPTED, address="")
    with pytest.raises(TypeError, match=r"AppraisedPeer\.of"):
        AppraisedPeer()
    with pytest.raises(TypeError):
        made(**values)
    with pytest.raises(TypeError):
        made(*values.values())
    with pytest.raises(TypeError):
        replace(peer, tee="sgx")
    for field in fields(AppraisedPeer):
        with pytest.raises(FrozenInstanceError):
            setattr(peer, field.name, values[field.name])


def test_the_report_of_an_acceptance() -> None:
    assert json.loads(json.dumps(ACCEPTED.as_json())) == {
        "verdict": "accepted",
        "code": "ok",
        "tee": "tdx",
        "tcbStatus": "UpToDate",
        "advisoryIds": ["INTEL-SA-00615"],
        "claims": {"mrTd": "ab", "debug": False},
        "reasons": [],
    }


def test_the_report_of_a_refusal_has_the_same_members() -> None:
    report = replace(REFUSED, evidence=None, tee=None).as_json()
    assert set(report) == set(ACCEPTED.as_json())
    assert (report["verdict"], report["code"]) == ("refused", "policy-refused")
    assert (report["tee"], report["tcbStatus"], report["claims"]) == (None, None, {})
    assert report["reasons"] == [REASON.as_json()]


def test_a_refusal_always_has_a_reason() -> None:
    """defects.md 17."""
    error = PolicyRefused("no")
    reason = Reason("policy-refused", "", "", "no", kind=ReasonKind.POLICY)
    assert error.reasons == (reason,)
