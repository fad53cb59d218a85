"""The appraisal policy: Rego over stored documents, where only an explicit yes is a yes."""

from __future__ import annotations

import json
from collections.abc import Mapping

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import NotFound, PolicyInvalid, Reason, StorageError
from verdictd_py.policy import explain
from verdictd_py.policy.engine import CompiledPolicies, CompiledPolicy, PolicyResult
from verdictd_py.policy.reference import unpinned
from verdictd_py.ports import PolicyDocuments, PolicySource, Tees

__all__ = ["OpenMeasurements", "RegoAppraisalPolicy", "unpinned"]


class RegoAppraisalPolicy:
    """Decides with the stored Rego policy of each TEE (port `AppraisalPolicy`).

    The documents are read for every decision, so that a file changed by hand counts at
    once; what was compiled is kept by their digest.

    Args:
        source: where policies and reference data are stored.
        tees: those whose guests it appraises; it refuses those of any other.
        require_reference_values: a list that is missing or empty refuses, where otherwise
            it means any value (for the TCB status, its default).
    """

    def __init__(
        self, source: PolicySource, tees: Tees, *, require_reference_values: bool = False
    ) -> None:
        self._source = source
        self._tees = tees
        self._require_reference_values = require_reference_values
        self._compiled = CompiledPolicies()

    @staticmethod
    def problem(documents: PolicyDocuments) -> str | None:
        """Why these documents let nobody in, or None where they can be used."""
        try:
            CompiledPolicy.compile(documents.policy, documents.data)
        except PolicyInvalid as error:
            return str(error)
        return None

    async def failures(self, tee: str, claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
        """Every failed rule; empty only if the policy's `allow` is `true`.

        1. Read the documents. 2. Compile them, or take what was compiled. 3. Evaluate.
        4. Refuse what no policy may accept. 5. Explain a refusal.
        """
        known = self._tees.get(tee)
        if known is None:
            return (_policy_reason(f"the TEE {tee} is not known here"),)
        try:
            documents = await self._source.documents(tee)  # 1
            compiled, result = await self._compiled.evaluate(documents, claims)  # 2, 3
        except (NotFound, StorageError, PolicyInvalid) as error:
            return (*explain.revoked(known, claims), _policy_reason(str(error)))
        reference = compiled.reference
        reasons = explain.revoked(known, claims)  # 4
        always = explain.unordered(known, claims, reference)
        always += explain.unverified_devices(claims, result.document)
        if self._require_reference_values:
            reasons += explain.not_pinned(known, reference)
        if not result.allow:  # 5
            found = explain.differences(known, claims, reference)
            found += explain.own_reasons(result.document)
            reasons += found or (_unexplained(result),)
        return _once(reasons + always)


class OpenMeasurements:
    """Measurements of a TEE for which any value passes.

    Args:
        source: where policies and reference data are stored.
    """

    def __init__(self, source: PolicySource, tees: Tees) -> None:
        self._source = source
        self._tees = tees

    async def of(self, tee: str) -> tuple[str, ...]:
        """Return their names; none where the documents cannot be read: every guest is refused."""
        try:
            documents = await self._source.documents(tee)
        except (NotFound, StorageError, PolicyInvalid):
            return ()
        return unpinned(documents.data, self._tees.measurements(tee))


def _policy_reason(text: str) -> Reason:
    return Reason("policy", "", "allow is true", f"policy: {text}")


def _unexplained(result: PolicyResult) -> Reason:
    if "allow" not in result.document:
        return _policy_reason("allow is undefined for this guest, and the policy says no more")
    shown = json.dumps(result.document["allow"], ensure_ascii=False)
    return Reason(
        "policy",
        shown,
        "allow is true",
        f"policy: allow is {shown}, expected true, and the policy says no more",
    )


def _once(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """One reason for each rule, the first; the policy's own texts all stay."""
    rules = {reason.rule: reason for reason in reversed(reasons) if reason.rule != "policy"}
    return tuple(r for r in reasons if r.rule == "policy" or rules.get(r.rule) is r)
