"""Rules that refuse a guest under every policy, also under one that accepts everything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from tests.policy.support import ONE, Claims, Documents, sgx_claims, tdx_claims
from tests.support.tees import SGX, TDX, TEES
from verdictd_py.domain.evidence import DEVICES
from verdictd_py.encoding import JsonValue
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.floor import Pinning
from verdictd_py.ports import PolicyDocuments
from verdictd_py.ports.known_tees import Tees

HEAD = "package policy\nimport rego.v1\n"
YES = HEAD + "allow := true\n"
NO = HEAD + "default allow := false\n"


async def reasons(
    policy: str,
    claims: Claims,
    data: str = "{}",
    tee: str = "tdx",
    *,
    tees: Tees = TEES,
    required: bool = False,
) -> list[dict[str, str]]:
    source = Documents(PolicyDocuments(policy, data))
    pinning = Pinning(require_reference_values=required)
    tested = RegoAppraisalPolicy(source, tees, pinning=pinning)
    return [reason.as_json() for reason in await tested.failures(tee, claims)]


async def rules(
    policy: str, claims: Claims, data: str = "{}", tee: str = "tdx", *, required: bool = False
) -> list[str]:
    found = await reasons(policy, claims, data, tee, required=required)
    return [reason["rule"] for reason in found]


def with_devices(kinds: JsonValue) -> Claims:
    return tdx_claims() | {DEVICES: kinds}


class TestRevokedTcb:
    async def test_a_revoked_tcb_is_refused_with_its_reason(self) -> None:
        assert await reasons(YES, tdx_claims(tcbStatus="Revoked")) == [
            {
                "rule": "tcbStatus",
                "measured": "Revoked",
                "expected": "a TCB that is not revoked",
                "text": "tcbStatus: measured Revoked, which no policy can accept",
            }
        ]

    @pytest.mark.parametrize("status", [None, 1, ["Revoked"], {}])
    async def test_a_status_of_another_type_is_left_to_the_policy(self, status: JsonValue) -> None:
        claims = tdx_claims(tcbStatus=status)
        assert await rules(YES, claims) == []
        packaged = TDX.documents.defaults().policy
        assert await rules(packaged, claims, '{"tcbGraceDays": {"OutOfDate": 3}}') == ["tcbStatus"]

    async def test_a_tee_without_a_tcb_status_is_not_revoked(self) -> None:
        tees = Tees([replace(TDX, tcb=None)])
        claims = tdx_claims(tcbStatus="Revoked")
        assert await reasons(YES, claims, tees=tees) == []
        pinned = json.dumps({name: [ONE] for name in TDX.measurements})
        assert await reasons(YES, claims, pinned, tees=tees, required=True) == []
        packaged = TDX.documents.defaults().policy
        refused = await reasons(packaged, claims, '{"tcbStatus": ["UpToDate"]}', tees=tees)
        assert [reason["rule"] for reason in refused] == ["tcbStatus"]

    async def test_a_revoked_tcb_is_refused_also_if_the_policy_is_unusable(self) -> None:
        assert await rules("?", tdx_claims(tcbStatus="Revoked")) == ["tcbStatus", "policy"]


class TestMinimaThatAreNotNumbers:
    """Rego orders values of different types by their types: `"1" >= 2` is true."""

    async def test_a_measured_value_that_is_not_a_number_refuses(self) -> None:
        data = '{"svn": 2, "productId": 1}'
        assert await reasons(YES, sgx_claims(svn="9"), data, "sgx") == [
            {
                "rule": "svn",
                "measured": "9",
                "expected": "2",
                "text": "svn: the measured value is not a number",
            }
        ]

    async def test_a_reference_value_that_is_not_a_number_refuses(self) -> None:
        data = '{"svn": "0", "productId": 1}'
        assert await reasons(YES, sgx_claims(svn=9), data, "sgx") == [
            {
                "rule": "svn",
                "measured": "9",
                "expected": "0",
                "text": "svn: the reference value is not a number; no claim can match it",
            }
        ]

    @pytest.mark.parametrize("value", [True, None, [], {}, "1"])
    async def test_every_other_type_refuses(self, value: JsonValue) -> None:
        assert await rules(YES, sgx_claims(productId=value), "{}", "sgx") == ["productId"]
        data = json.dumps({"productId": value})
        assert await rules(YES, sgx_claims(), data, "sgx") == ["productId"]

    async def test_numbers_and_absent_values_pass(self) -> None:
        for data in ("{}", '{"svn": 1, "productId": 0.5}'):
            assert await rules(YES, sgx_claims(), data, "sgx") == []
        assert await rules(YES, {}, '{"svn": 1}', "sgx") == []


class TestUnverifiedDevices:
    async def test_unverified_devices_are_refused(self) -> None:
        claims = with_devices(["nvidia", "tpm"])
        assert await reasons(YES, claims) == [
            {
                "rule": DEVICES,
                "measured": "nvidia, tpm",
                "expected": "",
                "text": "unverifiedDevices: there is no verifier for nvidia, tpm, and the policy "
                "does not name it in accept_unverified_devices",
            }
        ]

    @pytest.mark.parametrize(
        "accepted", ['["tpm", "nvidia"]', '{"tpm", "nvidia"}', '{"tpm": true, "nvidia": true}']
    )
    async def test_a_policy_accepts_kinds_that_it_names(self, accepted: str) -> None:
        policy = f"{YES}accept_unverified_devices := {accepted}\n"
        assert await rules(policy, with_devices(["nvidia", "tpm"])) == []
        (left,) = await reasons(policy, with_devices(["nvidia", "gpu"]))
        assert left["measured"] == "gpu"

    @pytest.mark.parametrize("accepted", ["true", '"nvidia"', "null", "[]", '"nvidia,tpm"', "1"])
    async def test_a_value_that_names_no_kind_accepts_no_device(self, accepted: str) -> None:
        policy = f"{YES}accept_unverified_devices := {accepted}\n"
        assert await rules(policy, with_devices(["nvidia"])) == [DEVICES]

    async def test_a_guest_without_devices_passes(self) -> None:
        for claims in (tdx_claims(), with_devices([])):
            assert await rules(YES, claims) == []

    @pytest.mark.parametrize("value", ["nvidia", None, {"nvidia": 1}, 0])
    async def test_a_claim_of_another_type_is_refused(self, value: JsonValue) -> None:
        assert await rules(YES, with_devices(value)) == [DEVICES]


async def test_every_rule_that_fails_is_reported() -> None:
    """Two rules fail at once; both are reported."""
    claims = sgx_claims(svn="2", tcbStatus="Revoked") | {DEVICES: ["nvidia"]}
    data = '{"mrEnclave": ["a"], "svn": 1, "productId": 1}'
    found = await rules(YES, claims, data, "sgx", required=True)
    assert found == ["tcbStatus", "mrSigner", "svn", DEVICES]


async def test_a_missing_reference_value_refuses_if_required() -> None:
    data = '{"mrEnclave": ["a"], "tcbStatus": ["UpToDate"]}'
    assert await reasons(YES, sgx_claims(), data, "sgx", required=True) == [
        {
            "rule": "mrSigner",
            "measured": "",
            "expected": "",
            "text": "mrSigner: no reference values, and reference values are required",
        }
    ]


def test_the_missing_pin_is_reported_before_each_missing_list() -> None:
    found = Pinning({"sgx"}, require_reference_values=True).unmet(SGX, {})
    assert [(reason.rule, "is pinned" in reason.text) for reason in found] == [
        ("mrEnclave", True),
        ("mrSigner", True),
        ("mrEnclave", False),
        ("mrSigner", False),
        ("tcbStatus", False),
    ]


async def test_an_unknown_tee_is_refused() -> None:
    assert await reasons(YES, tdx_claims(), tees=Tees([SGX])) == [
        {
            "rule": "policy",
            "measured": "",
            "expected": "allow is true",
            "text": "policy: the TEE tdx is not known",
        }
    ]


async def test_a_refusal_without_own_reasons_reports_the_value_of_allow() -> None:
    assert await reasons(HEAD + 'allow := "é"\n', tdx_claims()) == [
        {
            "rule": "policy",
            "measured": '"é"',
            "expected": "allow is true",
            "text": 'policy: allow is "é", expected true, and no other rule has a value',
        }
    ]
