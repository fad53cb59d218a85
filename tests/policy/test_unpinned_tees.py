"""Guests of a TEE that the operator has not named are refused until a measurement is pinned."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from tests.policy.support import Documents, default_documents, sgx_claims
from tests.support.tees import SGX, TEES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import StorageError
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.policy.floor import Pinning
from verdictd_py.ports import PolicyDocuments, Tees

ENCLAVE = base64.b64encode(b"E" * 32).decode()
SIGNER = base64.b64encode(b"S" * 32).decode()
CLAIMS = sgx_claims(mrEnclave=ENCLAVE, mrSigner=SIGNER)
YES = "package policy\nimport rego.v1\nallow := true\n"


def data(**lists: JsonValue) -> str:
    return json.dumps({"mrEnclave": [], "mrSigner": [], "productId": 0, "svn": 0, **lists})


def policy(documents: PolicyDocuments | Exception, *closed: str) -> RegoAppraisalPolicy:
    return RegoAppraisalPolicy(Documents(documents), TEES, pinning=Pinning(frozenset(closed)))


async def test_without_a_pin_every_guest_is_refused_under_every_policy() -> None:
    for documents in (default_documents("sgx"), PolicyDocuments(YES, data())):
        assert await policy(documents).failures("sgx", CLAIMS) == ()
        closed = policy(documents, "sgx")
        reasons = await closed.failures("sgx", CLAIMS)
        assert [reason.rule for reason in reasons] == ["mrEnclave", "mrSigner"]
        for reason in reasons:
            assert reason.text == (
                f"{reason.rule}: no measurement of sgx is pinned; pin this guest "
                "(verdict-py reference pin) or start with --verifier sgx"
            )
        assert await closed.awaits_pin("sgx")


@pytest.mark.parametrize("name", ["mrEnclave", "mrSigner"])
async def test_a_single_pinned_measurement_decides(name: str) -> None:
    pinned = policy(default_documents("sgx", data(**{name: [CLAIMS[name]]})), "sgx")
    assert await pinned.failures("sgx", CLAIMS) == ()
    assert not await pinned.awaits_pin("sgx")
    (reason,) = await pinned.failures("sgx", {**CLAIMS, name: base64.b64encode(b"X" * 32).decode()})
    assert reason.rule == name
    assert "expected one of" in reason.text


@pytest.mark.parametrize(
    "lists",
    [
        {"mrSigner": ["(release-1 is retired)"]},
        {"mrSigner": ["53" * 32]},
        {"mrSigner": SIGNER},
        {"mrSigner": [["a list"], None, 3]},
        {"mrsigner": [SIGNER]},
    ],
    ids=["a set that ended", "another form", "no list", "no texts", "an unknown name"],
)
async def test_a_value_that_no_guest_can_measure_does_not_pin(lists: dict[str, JsonValue]) -> None:
    closed = policy(PolicyDocuments(YES, data(**lists)), "sgx")
    assert await closed.failures("sgx", CLAIMS)
    assert await closed.awaits_pin("sgx")


async def test_unreadable_documents_refuse_every_guest() -> None:
    assert await policy(StorageError("unreadable"), "sgx").awaits_pin("sgx")
    assert not await policy(StorageError("unreadable")).awaits_pin("sgx")


async def test_a_tee_without_measurements_must_be_named() -> None:
    nameless = replace(SGX, claims={"svn": SGX.claims["svn"]})
    closed = RegoAppraisalPolicy(
        Documents(PolicyDocuments(YES, "{}")),
        Tees((nameless,)),
        pinning=Pinning({"sgx"}),
    )
    (reason,) = await closed.failures("sgx", {"svn": 1})
    assert reason.rule == "sgx"
    assert reason.text.endswith("or start with --verifier sgx")
