"""The appraisal policy: Rego over stored documents, where only an explicit `true` accepts."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping
from functools import lru_cache, partial

from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.evidence import DEVICES, VerifiedEvidence
from verdictd_py.domain.trust import HARDWARE_WARNING, UNTRUSTED, TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    EvaluationFailed,
    NotFound,
    PolicyInvalid,
    PolicyUnavailable,
    Reason,
    ReasonKind,
    StorageError,
)
from verdictd_py.offload import offload
from verdictd_py.policy import explain, floor
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.decisions import Decisions
from verdictd_py.policy.engine import PolicyResult, in_thread
from verdictd_py.policy.explain import MAX_OWN_CHARS
from verdictd_py.policy.floor import NO_REQUIREMENTS, Pinning
from verdictd_py.policy.trial import SampleDecisions
from verdictd_py.ports import Failures, PolicyDocuments, PolicySource, Tee, Tees


class RegoAppraisalPolicy:
    """Decides with the stored Rego policy of each TEE (port `AppraisalPolicy`).

    The documents are read for every decision, so that a file changed by hand counts at
    once. The compiled policy and its decisions are cached by the digest of the documents.

    Args:
        source: documents that decide, with the named sets that are in force.
        tees: TEEs whose guests are appraised; guests of any other TEE are refused.
        compiled: cache of compiled policies, shared with `PolicyTrial`.
        pinning: what the operator requires of the reference data.
    """

    def __init__(
        self,
        source: PolicySource,
        tees: Tees,
        compiled: CompiledPolicies | None = None,
        *,
        pinning: Pinning = NO_REQUIREMENTS,
    ) -> None:
        self._source = source
        self._tees = tees
        self._pinning = pinning
        self._compiled = CompiledPolicies() if compiled is None else compiled
        self._decisions = Decisions(self._compiled)
        self._samples = SampleDecisions(tees, self._compiled)

    async def prepare(self, tee: str) -> PolicyDocuments:
        """Compile a TEE's policy, so that its next guest need not wait for that.

        Returns:
            The documents that decide about that guest.

        Raises:
            NotFound, StorageError, PolicyInvalid: no guest can be appraised until it is fixed.
        """
        documents = await self._source.documents(tee)
        await in_thread(self._compiled.of, documents)
        if (known := self._tees.get(tee)) is not None:
            await self._samples.require(documents, known)
        return documents

    async def awaits_pin(self, tee: str) -> bool:
        """Return whether every guest of a TEE is refused because no measurement is pinned."""
        known = self._tees.get(tee)
        if known is None or tee not in self._pinning.pinned_only:
            return False
        try:
            documents = await self._source.documents(tee)
            return bool(floor.nothing_pinned(known, documents.reference.values))
        except (NotFound, StorageError, PolicyInvalid):
            return True

    async def failures(self, tee: str, claims: Mapping[str, JsonValue]) -> Failures:
        """Return every failed rule; empty only if the policy's `allow` is `true`.

        1. Read the documents. 2. Compile them, or take the cached policy. 3. Evaluate it.
        4. Apply the rules that no policy can overrule (`floor`). 5. Explain a refusal.

        An evaluation that fails for these claims refuses the guest, which chose some of them.

        Raises:
            PolicyUnavailable: the policy is at fault, whatever the claims: 1 or 2 failed, or 3
                fails for the sample claims of the TEE as well.
        """
        known = self._tees.get(tee)
        if known is None:
            return Failures.of([_policy_reason(f"the TEE {tee} is not known")])
        try:
            documents = await self._source.documents(tee)  # 1
            try:
                read = _read_claims(known, documents, claims)
                result = await self._decisions.evaluate(documents, read)  # 2, 3
            except EvaluationFailed as error:
                await self._samples.require(documents, known)
                return Failures.of(evaluation_failed(known, claims, error), documents)
        except (NotFound, StorageError, PolicyInvalid) as error:
            if known.revoked(claims):  # a verdict that needs no policy
                return Failures.of(evaluation_failed(known, claims, error))
            raise PolicyUnavailable(f"policy: {error}") from error
        decide = partial(refusals, known, documents, claims, result, self._pinning)
        # A refusal compares with all lists, which takes a small part of the time for reading them.
        compared = 0 if result.allow else len(documents.data) // 16
        return Failures.of(await offload(compared, decide), documents)  # 4, 5


def refusals(
    tee: Tee,
    documents: PolicyDocuments,
    claims: Mapping[str, JsonValue],
    result: PolicyResult,
    pinning: Pinning,
) -> tuple[Reason, ...]:
    """Return every reason to refuse a guest for whom the policy was evaluated; empty accepts it.

    A test of a policy calls this as well, so that it reports what the broker decides.
    """
    reference = documents.reference.values
    reasons = tee.revoked(claims) + pinning.unmet(tee, reference)
    always = floor.non_numeric_minima(tee, claims, reference)
    always += floor.unverified_devices(claims, result.document)
    if not result.allow:
        reasons += _explained(tee, documents, claims, result)
    return _without_duplicates(reasons + always)


def _explained(
    tee: Tee, documents: PolicyDocuments, claims: Mapping[str, JsonValue], result: PolicyResult
) -> tuple[Reason, ...]:
    """Explain a refusal by the result of the policy in force.

    Only the packaged policy is known to refuse every difference from the reference data. Another
    policy is explained by its own result alone.
    """
    reference = documents.reference.values
    differences = explain.differences(tee, claims, reference)
    own = explain.own_reasons(result.document, tee.reason_kind)
    if _is_packaged(tee, documents):
        return (differences + own) or (unexplained_refusal(result),)
    reasons = explain.mismatches(tee, claims, reference, result.document) + own
    # The policy may have refused for more than it names. A guest with reasons about measurements
    # alone can be pinned, so that any other difference adds a reason.
    named = {reason.rule for reason in reasons}
    others = [reason for reason in differences if reason.kind is not ReasonKind.MEASUREMENT]
    if not reasons or any(reason.rule not in named for reason in others):
        reasons += (unexplained_refusal(result),)
    return reasons


def _read_claims(
    tee: Tee, documents: PolicyDocuments, claims: Mapping[str, JsonValue]
) -> Mapping[str, JsonValue]:
    """Return the claims that the policy in force may read.

    The packaged policy does not read a claim that differs for each connection, unless the
    reference data has a member of its name. Without this claim, all guests with the same
    measurements have the same input, which is decided once (`decisions`). Any other policy gets
    all claims.
    """
    reference = documents.reference.values
    unread = [
        name
        for name, claim in tee.claims.items()
        if claim.of_connection and name in claims and name not in reference
    ]
    if not unread or not _is_packaged(tee, documents):
        return claims
    return {name: value for name, value in claims.items() if name not in unread}


def _is_packaged(tee: Tee, documents: PolicyDocuments) -> bool:
    packaged = _packaged(tee.documents.packaged, tee.documents.policy)
    return documents.policy.strip() == packaged


@lru_cache
def _packaged(read: Callable[[str], str], name: str) -> str:
    return read(name).strip()


def evaluation_failed(
    tee: Tee | None, claims: Mapping[str, JsonValue], error: Exception
) -> tuple[Reason, ...]:
    """Return the reasons to refuse a guest for whose claims the evaluation failed."""
    revoked = () if tee is None else tee.revoked(claims)
    return (*revoked, _policy_reason(str(error)))


class GuestTrust:
    """Computes the trust vectors of accepted guests.

    The reference values of each TEE are stored as sets, so that 10,000 values are not compared one
    by one for each guest. Other reference data replaces them.

    Args:
        source: documents that decide.
    """

    def __init__(self, source: PolicySource, tees: Tees) -> None:
        self._source = source
        self._tees = tees
        self._values: dict[str, tuple[ReferenceData, Mapping[str, Container[JsonValue]]]] = {}

    async def __call__(self, evidence: VerifiedEvidence) -> TrustVector:
        """Return the trust vector of an accepted guest.

        Measurements count as approved only if a reference value equals them: a policy may accept
        other values. Unverified devices make the hardware a warning.

        Raises:
            PolicyUnavailable: the reference data cannot be read.
        """
        tee = self._tees.get(evidence.tee)
        if tee is None:
            return UNTRUSTED
        vector = tee.trust(evidence, await self._unrecognized(tee, evidence.claims))
        if not evidence.claims.get(DEVICES):
            return vector
        hardware = max(vector.get("hardware", HARDWARE_WARNING), HARDWARE_WARNING)
        return {**vector, "hardware": hardware}

    async def _unrecognized(self, tee: Tee, claims: Mapping[str, JsonValue]) -> tuple[str, ...]:
        """Return the measurements that no reference value equals."""
        try:
            reference = (await self._source.documents(tee.name)).reference
        except (NotFound, StorageError, PolicyInvalid) as error:
            raise PolicyUnavailable(f"policy: {error}") from error
        known = self._values.get(tee.name)
        if known is None or known[0] is not reference:
            lists = {name: reference.values.get(name) for name in tee.measurements}
            known = reference, {name: _members(values) for name, values in lists.items()}
            self._values[tee.name] = known
        return tuple(
            name
            for name, values in known[1].items()
            if name not in claims or not _is_member(claims[name], values)
        )


def _members(values: JsonValue) -> Container[JsonValue]:
    """Return the values of a list for comparisons with them; nothing is in any other value."""
    if not isinstance(values, list):
        return ()
    try:
        return frozenset(values)
    except TypeError:  # lists and objects have no hash
        return values


def _is_member(value: JsonValue, values: Container[JsonValue]) -> bool:
    if isinstance(value, list | dict):
        return not isinstance(values, frozenset) and value in values
    return value in values


def _policy_reason(text: str) -> Reason:
    return Reason(explain.UNNAMED, "", "allow is true", f"policy: {text}", kind=ReasonKind.POLICY)


def unexplained_refusal(result: PolicyResult) -> Reason:
    """Return a reason with the values of all rules, for a policy that gives no reasons itself."""
    rules = {name: value for name, value in result.document.items() if name != "allow"}
    values = ", ".join(f"{name} is {_json(value)}" for name, value in sorted(rules.items()))
    more = "; its other rules: " + values[:MAX_OWN_CHARS]
    if not rules:
        more = ", and no other rule has a value"
    if "allow" not in result.document:
        return _policy_reason(f"allow is undefined for this guest{more}")
    value = _json(result.document["allow"])
    text = f"policy: allow is {value}, expected true{more}"
    return Reason(explain.UNNAMED, value, "allow is true", text, kind=ReasonKind.POLICY)


def _json(value: JsonValue) -> str:
    return json.dumps(value, ensure_ascii=False)


def _without_duplicates(reasons: tuple[Reason, ...]) -> tuple[Reason, ...]:
    """Return the first reason of each rule, and every reason that names no rule."""
    first = {reason.rule: reason for reason in reversed(reasons)}
    return tuple(r for r in reasons if r.rule == explain.UNNAMED or first[r.rule] is r)
