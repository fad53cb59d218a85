"""Trials of new policies: compiled and evaluated for a sample before they are stored.

A policy is code. What protects the daemon from it is the budget of the policy engine, which is
the same here as for every decision.
"""

from __future__ import annotations

from typing import Final

from verdictd_py.domain.evidence import SGX_MEASUREMENTS, TDX_MEASUREMENTS, Tee
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicies, CompiledPolicy, in_thread
from verdictd_py.ports import PolicyDocuments, TestedPolicy

_ANYTHING: Final = "ff" * 48

_TDX_SAMPLE: Final[dict[str, JsonValue]] = {
    **dict.fromkeys((*TDX_MEASUREMENTS, "mrServiceTd"), _ANYTHING),
    "reportData": "ff" * 64,
    "teeTcbSvn": "ff" * 16,
    "teeTcbSvn2": "ff" * 16,
    "tdAttributes": "00" * 8,
    "xfam": "ff" * 8,
    "debug": False,
    "tcbStatus": "UpToDate",
    "advisoryIds": ["INTEL-SA-00000"],
    "fmspc": "ff" * 6,
    "tcbDate": "2024-03-13T00:00:00Z",
    "tcbBehindDays": 0,
}
_SGX_SAMPLE: Final[dict[str, JsonValue]] = {
    **dict.fromkeys(SGX_MEASUREMENTS, "/" * 43 + "="),
    "productId": 1,
    "svn": 1,
    "debug": False,
    "tcbStatus": "UpToDate",
    "advisoryIds": [],
}
"""Claims of a good guest that match no reference value, so that every list is searched whole."""

_ANY_SAMPLE: Final[dict[str, JsonValue]] = {
    **_TDX_SAMPLE,
    "claims": dict(_TDX_SAMPLE),
    "appraisal": {"id": "00" * 16, "tee": "tdx"},
    "resource": {
        "kind": "resource",
        "path": "default/key/1",
        "labels": {"repository": "default", "type": "key", "tag": "1"},
    },
}
"""For a policy without a TEE, which may also be a release policy with its input."""

_SAMPLES: Final = {None: _ANY_SAMPLE, Tee.SGX: _SGX_SAMPLE}


class PolicyTrial:
    """Port `PolicyTester`.

    Args:
        compiled: where a checked policy stays compiled, for the decisions that follow if it is
            stored.
    """

    def __init__(self, compiled: CompiledPolicies | None = None) -> None:
        self._compiled = CompiledPolicies() if compiled is None else compiled

    async def check(self, documents: PolicyDocuments, tee: Tee | None) -> None:
        await in_thread(self._check, documents, tee)

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> TestedPolicy:
        return await in_thread(_test, documents, claims)

    def _check(self, documents: PolicyDocuments, tee: Tee | None) -> None:
        self._compiled.of(documents).evaluate(_SAMPLES.get(tee, _TDX_SAMPLE))


def _test(documents: PolicyDocuments, claims: JsonValue) -> TestedPolicy:
    """The verdict, and each input next to its reference value (wire-client-api.md, `TestOpa`)."""
    if not isinstance(claims, dict):
        raise PolicyInvalid("the claims are not a JSON object")
    compiled = CompiledPolicy.compile(documents.policy, documents.data)
    allow = compiled.evaluate(claims).allow
    info: dict[str, JsonValue] = {
        name: [value, compiled.reference.values.get(name)] for name, value in claims.items()
    }
    return TestedPolicy(allow, info)
