"""The packaged policies, by table, by generated claims, and by OPA where it is installed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.support import (
    ONE,
    POLICIES,
    TWO,
    Claims,
    Documents,
    default_documents,
    sgx_claims,
    tdx_claims,
    without,
)
from tests.support.examples import examples
from tests.support.tees import TDX, TEES
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.ports import PolicyDocuments
from verdictd_py.tees.intel.tee import ACCEPTED_TCB

PINNABLE = (
    *TDX.measurements,
    *("mrServiceTd", "reportData", "teeTcbSvn", "teeTcbSvn2"),
    *("tdAttributes", "xfam", "fmspc", "tcbDate"),
)
STATUSES = (
    *("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"),
    *("OutOfDate", "OutOfDateConfigurationNeeded", "TDRelaunchAdvised"),
    *("TDRelaunchAdvisedConfigurationNeeded", "Revoked"),
)
WRONG_TYPES: tuple[JsonValue, ...] = (None, False, True, 0, 1, [], {}, [ONE], {ONE: ONE}, 1.5, "")


@lru_cache(maxsize=64)
def compiled(tee: str, data: str) -> CompiledPolicy:
    return CompiledPolicy.compile(default_documents(tee).policy, data)


def allowed(tee: str, claims: Claims, data: object = None) -> bool:
    """Return whether the packaged policy of `tee` accepts; a failed evaluation does not."""
    packaged = default_documents(tee).data
    try:
        policy = compiled(tee, packaged if data is None else json.dumps(data))
        return policy.evaluate(claims).allow
    except PolicyInvalid:
        return False


class TestTdx:
    def test_a_genuine_guest_is_accepted(self) -> None:
        assert allowed("tdx", tdx_claims())
        assert allowed("tdx", tdx_claims(), {})

    @pytest.mark.parametrize("value", [True, None, 0, 1, "", "false", [], {}, [False]])
    def test_debug_must_be_false(self, value: JsonValue) -> None:
        """defects.md 9."""
        assert not allowed("tdx", tdx_claims(debug=value))
        assert not allowed("tdx", tdx_claims(debug=value), {"debug": [value, True]})
        assert not allowed("tdx", without(tdx_claims(), "debug"))

    @pytest.mark.parametrize("status", STATUSES)
    def test_only_accepted_tcb_statuses_pass(self, status: str) -> None:
        """defects.md 9: an outdated platform is refused unless the operator accepts its status."""
        claims = tdx_claims(tcbStatus=status)
        same: tuple[object, ...] = (None, {}, {"tcbStatus": []}, {"tcbStatus": list(ACCEPTED_TCB)})
        for data in same:
            assert allowed("tdx", claims, data) == (status in ACCEPTED_TCB)
        assert allowed("tdx", claims, {"tcbStatus": [status]}) == (status != "Revoked")
        assert not allowed("tdx", claims, {"tcbStatus": ["Other"]})

    @pytest.mark.parametrize("value", WRONG_TYPES)
    def test_a_tcb_status_of_a_wrong_type_is_refused(self, value: JsonValue) -> None:
        assert not allowed("tdx", tdx_claims(tcbStatus=value))
        if value != []:
            assert not allowed("tdx", tdx_claims(), {"tcbStatus": value})
        assert not allowed("tdx", without(tdx_claims(), "tcbStatus"))

    @pytest.mark.parametrize("name", PINNABLE)
    def test_a_pinned_claim_must_be_in_its_list(self, name: str) -> None:
        """defects.md 8: every measurement reaches the policy."""
        claims = tdx_claims(**{name: ONE})
        assert allowed("tdx", claims, {name: []})
        assert allowed("tdx", claims, {name: [ONE]})
        assert allowed("tdx", claims, {name: [TWO, ONE]})
        assert not allowed("tdx", claims, {name: [TWO]})
        assert not allowed("tdx", claims, {name: [TWO, ONE[:-1], ONE + "1", ""]})
        assert not allowed("tdx", without(claims, name), {name: [ONE]})
        assert allowed("tdx", without(claims, name), {name: []})

    @pytest.mark.parametrize("value", WRONG_TYPES)
    def test_pins_and_claims_of_a_wrong_type_are_refused(self, value: JsonValue) -> None:
        if value != []:
            assert allowed("tdx", tdx_claims(), {"rtmr1": value}) == (value == [ONE])
        assert not allowed("tdx", tdx_claims(rtmr1=value), {"rtmr1": [TWO]})
        if value != "":
            assert not allowed("tdx", tdx_claims(rtmr1=value), {"rtmr1": [value]})

    def test_a_text_is_not_a_list_of_its_parts(self) -> None:
        assert not allowed("tdx", tdx_claims(), {"rtmr1": ONE})
        assert not allowed("tdx", tdx_claims(), {"rtmr1": {"0": ONE}})

    @pytest.mark.parametrize(
        ("measured", "passes"),
        [
            ([], True),
            (["A"], True),
            (["A", "B"], True),
            (["A", "C"], False),
            (["C"], False),
            ("A", True),
            ("C", False),
            (None, False),
            ({}, False),
            (1, False),
        ],
    )
    def test_each_advisory_must_be_accepted(self, measured: JsonValue, passes: bool) -> None:
        claims = tdx_claims(advisoryIds=measured)
        assert allowed("tdx", claims, {"advisoryIds": ["A", "B"]}) == passes
        assert allowed("tdx", claims, {"advisoryIds": []})

    def test_the_packaged_data_names_every_measurement(self) -> None:
        data = ReferenceData.parse((POLICIES / "tdxData").read_text(encoding="utf-8")).values
        assert data == {"tcbStatus": list(ACCEPTED_TCB), **{name: [] for name in TDX.measurements}}


class TestSgx:
    """Rules and names are those of verdictd's `src/resources/opa.rs`."""

    def test_the_packaged_data_is_the_original(self) -> None:
        data = ReferenceData.parse((POLICIES / "sgxData").read_text(encoding="utf-8")).values
        assert data == {"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0}
        assert allowed("sgx", sgx_claims())

    @pytest.mark.parametrize("name", ["mrEnclave", "mrSigner"])
    def test_a_claim_must_be_in_its_list(self, name: str) -> None:
        data: Claims = {"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0}
        mine = sgx_claims()[name]
        assert allowed("sgx", sgx_claims(), {**data, name: [mine]})
        assert allowed("sgx", sgx_claims(), {**data, name: ["b3RoZXI=", mine]})
        assert not allowed("sgx", sgx_claims(), {**data, name: ["b3RoZXI="]})
        assert not allowed("sgx", without(sgx_claims(), name), {**data, name: [mine]})
        assert not allowed("sgx", sgx_claims(), without(data, name))
        for value in ({}, "", mine, None, False, 0, {"0": mine}):
            assert not allowed("sgx", sgx_claims(), {**data, name: value})

    @pytest.mark.parametrize("name", ["productId", "svn"])
    def test_a_claim_must_be_at_least_its_minimum(self, name: str) -> None:
        data: Claims = {"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0}
        for least, passes in ((1, True), (2, True), (3, False), (2.5, False), (-1, True)):
            assert allowed("sgx", sgx_claims(**{name: 2}), {**data, name: least}) == passes
        wrong: tuple[JsonValue, ...] = ("0", None, False, True, [], {}, "")
        for value in wrong:
            assert not allowed("sgx", sgx_claims(), {**data, name: value})
            assert not allowed("sgx", sgx_claims(**{name: value}))
        assert not allowed("sgx", without(sgx_claims(), name))
        assert not allowed("sgx", sgx_claims(), without(data, name))

    @pytest.mark.parametrize("status", STATUSES)
    def test_a_tcb_status_from_a_verifier_must_be_accepted(self, status: str) -> None:
        """defects.md 9."""
        data: Claims = {"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0}
        claims = sgx_claims(tcbStatus=status, debug=False)
        assert allowed("sgx", claims) == (status in ACCEPTED_TCB)
        pinned = {**data, "tcbStatus": [status]}
        assert allowed("sgx", claims, pinned) == (status != "Revoked")
        assert not allowed("sgx", claims, {**data, "tcbStatus": ["Other"]})

    @pytest.mark.parametrize("value", WRONG_TYPES)
    def test_debug_and_tcb_status_from_a_verifier_must_have_accepted_values(
        self, value: JsonValue
    ) -> None:
        assert not allowed("sgx", sgx_claims(tcbStatus=value))
        assert allowed("sgx", sgx_claims(debug=value)) == (value is False)


pool = st.sampled_from([ONE, TWO, "", "A", "UpToDate", "OutOfDate", "Revoked"])
odd = st.sampled_from(WRONG_TYPES)
names = st.sampled_from(["mrTd", "rtmr0", "rtmr3", "fmspc", "tcbStatus", "debug"])
some_claims = st.dictionaries(names, st.one_of(pool, pool, odd))
some_data = st.dictionaries(names, st.one_of(st.lists(pool, max_size=3), st.lists(odd), odd))


@examples(70)
@given(changes=some_claims, gone=st.sets(names), data=some_data)
def test_a_claim_outside_its_list_is_never_accepted(
    changes: Claims, gone: set[str], data: Claims
) -> None:
    """Compare the policy with the same rules in Python."""
    claims = without(tdx_claims(**changes), *gone)
    status = claims.get("tcbStatus")
    accepted = data.get("tcbStatus", [])
    accepted = list(ACCEPTED_TCB) if accepted == [] else accepted
    fits = [
        claims.get("debug") is False,
        isinstance(status, str) and isinstance(accepted, list) and status in accepted,
        status != "Revoked",
        *(_fits(claims.get(name), data.get(name, [])) for name in PINNABLE),
    ]
    assert allowed("tdx", claims, data) == all(fits)


def _fits(measured: JsonValue, values: JsonValue) -> bool:
    if not isinstance(values, list):
        return False
    return not values or (isinstance(measured, str) and measured in values)


@examples(40)
@given(changes=some_claims, gone=st.sets(names), data=some_data)
async def test_only_a_refusal_has_reasons(changes: Claims, gone: set[str], data: Claims) -> None:
    """defects.md 17."""
    claims = without(tdx_claims(**changes), *gone)
    policy = RegoAppraisalPolicy(Documents(default_documents("tdx", json.dumps(data))), TEES)
    reasons = await policy.failures("tdx", claims)
    assert (reasons == ()) == allowed("tdx", claims, data)
    assert all(reason.text for reason in reasons)


@pytest.mark.skipif(
    shutil.which("opa") is None and not os.environ.get("REQUIRE_OPA"),
    reason="OPA is not installed (on PATH)",
)
@pytest.mark.parametrize("tee", ["tdx", "sgx"])
def test_opa_gives_the_same_results(tee: str, tmp_path: Path) -> None:
    """OPA reads the packaged policies as this engine does."""
    chance = random.Random(2718)  # noqa: S311  # cases, not secrets
    values: list[JsonValue] = [ONE, TWO, "UpToDate", "Revoked", "", 0, 2, 3, True, False, None]
    values += [[], [ONE], {}]
    make = tdx_claims if tee == "tdx" else sgx_claims
    keys = ["debug", "tcbStatus", "rtmr0", "mrTd", "fmspc", "advisoryIds"]
    if tee == "sgx":
        keys = ["debug", "tcbStatus", "mrEnclave", "mrSigner", "productId", "svn"]
    said: set[bool] = set()
    for _ in range(8):
        data = dict(ReferenceData.parse(default_documents(tee).data).values)
        data |= {name: [chance.choice(values), ONE] for name in chance.sample(keys, 1)}
        data |= {name: chance.choice(values) for name in chance.sample(keys, chance.randrange(2))}
        cases: list[Claims] = []
        for _ in range(40):
            changes = {name: chance.choice(values) for name in chance.sample(keys, 1)}
            cases.append(without(make(**changes), *chance.sample(keys, chance.randrange(2))))
        (tmp_path / "data.json").write_text(json.dumps(data), encoding="utf-8")
        policy = POLICIES / f"{tee}Policy.rego"
        answers = _ask_opa(policy, tmp_path / "data.json", cases)
        assert answers == [allowed(tee, claims, data) for claims in cases]
        said |= set(answers)
    assert said == {True, False}


V0_POLICY = """package policy

default allow = false

allow {
    enclave
    signer
    input.productId >= data.productId
    input.svn >= data.svn
}

enclave { count(data.mrEnclave) == 0 }
enclave { data.mrEnclave[_] == input.mrEnclave }

signer { count(data.mrSigner) == 0 }
signer { data.mrSigner[_] == input.mrSigner }
"""


@pytest.mark.skipif(
    shutil.which("opa") is None and not os.environ.get("REQUIRE_OPA"),
    reason="OPA is not installed (on PATH)",
)
async def test_opa_reads_policies_of_the_originals_syntax_as_this_engine_does(
    tmp_path: Path,
) -> None:
    """Rego v0 with the original's SGX rules: hits, misses, wrong types, absent fields.

    Where a minimum is no number, OPA has an order of types and this engine another: then
    the broker refuses, whatever either says.
    """
    chance = random.Random(3141)  # noqa: S311  # cases, not secrets
    values: list[JsonValue] = [ONE, TWO, "", 0, 1, 2, 3, True, False, None, [], [ONE], {}]
    keys = ["mrEnclave", "mrSigner", "productId", "svn"]
    (tmp_path / "v0.rego").write_text(V0_POLICY)
    said: set[bool] = set()
    for _ in range(8):
        data: Claims = {"mrEnclave": [], "mrSigner": [ONE, TWO], "productId": 1, "svn": 1}
        data |= {name: chance.choice(values) for name in chance.sample(keys, chance.randrange(2))}
        cases: list[Claims] = []
        for _ in range(40):
            good: Claims = {"mrEnclave": ONE, "mrSigner": TWO, "productId": 2, "svn": 2}
            good |= {name: chance.choice(values) for name in chance.sample(keys, 1)}
            cases.append(without(good, *chance.sample(keys, chance.randrange(2))))
        (tmp_path / "data.json").write_text(json.dumps(data), encoding="utf-8")
        answers = _ask_opa(tmp_path / "v0.rego", tmp_path / "data.json", cases, "--v0-compatible")
        policy = RegoAppraisalPolicy(Documents(PolicyDocuments(V0_POLICY, json.dumps(data))), TEES)
        ours = [await policy.failures("sgx", claims) == () for claims in cases]
        ordered = [_has_numbers(data) and _has_numbers(claims) for claims in cases]
        assert ours == [opa and numbers for opa, numbers in zip(answers, ordered, strict=True)]
        said |= set(ours)
    assert said == {True, False}


def _has_numbers(values: Claims) -> bool:
    minima = [values[name] for name in ("productId", "svn") if name in values]
    return all(isinstance(v, int) and not isinstance(v, bool) for v in minima)


@pytest.mark.parametrize("wrong", ["3", "", None, True, [], [1], {}])
async def test_a_minimum_that_is_not_a_number_refuses(wrong: JsonValue) -> None:
    """`"3" >= 2` is true in Rego; the original's policy does not require numbers."""
    good: Claims = {"mrEnclave": ONE, "mrSigner": TWO, "productId": 2, "svn": 2}
    data: Claims = {"mrEnclave": [], "mrSigner": [], "productId": 1, "svn": 1}
    for claims, reference in ((good, {**data, "svn": wrong}), ({**good, "svn": wrong}, data)):
        documents = PolicyDocuments(V0_POLICY, json.dumps(reference))
        reasons = await RegoAppraisalPolicy(Documents(documents), TEES).failures("sgx", claims)
        assert "svn" in {reason.rule for reason in reasons}


def _ask_opa(policy: Path, data: Path, cases: list[Claims], *more: str) -> list[bool]:
    # Both syntaxes know this form.
    query = "[verdict | each := input.cases[_]; verdict := data.policy.allow with input as each]"
    options = ["--format=raw", "--stdin-input", *more, "-d", str(policy)]
    asked = subprocess.run(
        ["opa", "eval", *options, "-d", str(data), query],
        input=json.dumps({"cases": cases}),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: list[bool] = json.loads(asked.stdout)
    return answer
