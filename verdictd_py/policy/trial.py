"""Trials of new policies: they are compiled and evaluated for a sample before they are stored.

A policy is code. The budget of the policy engine protects the daemon from it, here as in every
decision.
"""

from __future__ import annotations

from verdictd_py.domain.trust import HARDWARE_GENUINE
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvaluationFailed, PolicyInvalid
from verdictd_py.policy import trustee
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.engine import CompiledPolicy, in_thread
from verdictd_py.ports import PolicyDecision, PolicyDocuments, Tee, Tees


class PolicyTrial:
    """Trials of policies before they are stored (port `PolicyTester`).

    Args:
        tees: TEEs with the sample claims for which policies are evaluated.
        compiled: cache of compiled policies, so that a policy that is stored after its check need
            not be compiled again.
    """

    def __init__(self, tees: Tees, compiled: CompiledPolicies | None = None) -> None:
        self._tees = tees
        self._compiled = CompiledPolicies() if compiled is None else compiled

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
        known = self._tees.get(tee)
        sample = sample_input(self._tees, known)
        data = trustee.request(sample) if known is None else {}
        await in_thread(self._check, documents, sample, data)

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> PolicyDecision:
        return await in_thread(_test, documents, claims)

    def _check(
        self,
        documents: PolicyDocuments,
        sample: dict[str, JsonValue],
        data: dict[str, JsonValue],
    ) -> None:
        self._compiled.of(documents).evaluate(sample, data)


class SampleDecisions:
    """Decisions of the policies in force about sample claims.

    If an evaluation fails for a guest, and the policy decides about the sample, the guest is
    refused. If it fails for the sample as well, the policy is at fault. The result for the current
    text and data of each policy is cached, so that guests cannot cause this work again and again.
    """

    def __init__(self, tees: Tees, compiled: CompiledPolicies) -> None:
        self._tees = tees
        self._compiled = compiled
        self._problems: dict[str, tuple[PolicyDocuments, str]] = {}

    async def require(self, documents: PolicyDocuments, tee: Tee | None) -> None:
        """Require that a policy makes a decision about the sample.

        Args:
            tee: TEE of its guests; None for a release policy.

        Raises:
            PolicyInvalid: it makes no decision, or cannot be compiled.
        """
        cached = self._problems.get(documents.name)
        if cached is None or cached[0] != documents:
            sample = sample_input(self._tees, tee)
            data = trustee.request(sample) if tee is None else {}
            problem = ""
            try:
                await self._compiled.evaluate(documents, sample, data)
            except EvaluationFailed as error:
                problem = str(error)
            cached = self._problems[documents.name] = documents, problem
        if cached[1]:
            raise PolicyInvalid(cached[1])


def sample_input(tees: Tees, tee: Tee | None) -> dict[str, JsonValue]:
    """Return the input for a trial of a TEE's policy.

    A policy without a TEE may be a release policy, so that its input also has the members that
    release policies read.
    """
    if tee is not None:
        return tee.sample_claims
    known, claims = tees.default, tees.default.sample_claims
    return {
        **claims,
        "claims": claims,
        "appraisal": {"id": "00" * 16, "tee": known.name},
        "resource": {
            "kind": "resource",
            "path": "default/key/1",
            "labels": {"repository": "default", "type": "key", "tag": "1"},
            "query": {},
        },
        trustee.SUBMODS: trustee.submods(tees, known.name, claims, {"hardware": HARDWARE_GENUINE}),
    }


def _test(documents: PolicyDocuments, claims: JsonValue) -> PolicyDecision:
    """Return the verdict and pairs of claim and reference value (wire-client-api.md, `TestOpa`)."""
    if not isinstance(claims, dict):
        raise PolicyInvalid("the claims are not a JSON object")
    compiled = CompiledPolicy.compile(documents.policy, documents.data)
    allow = compiled.evaluate(claims, trustee.request(claims)).allow
    info: dict[str, JsonValue] = {
        name: [value, compiled.reference.values.get(name)] for name, value in claims.items()
    }
    return PolicyDecision(allow, info)
