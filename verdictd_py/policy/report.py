"""Reports of tested policies: what the broker would decide about some claims, and why.

The decision is made as in `policy.appraisal` and `policy.release`: with the same engine, budget and
rules that no policy can overrule. A second evaluation, which decides nothing, records the
comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from verdictd_py.documents.reference import Reference
from verdictd_py.domain.claims import MatchRule
from verdictd_py.domain.policyreport import (
    ClaimComparison,
    Comparison,
    PolicyOutline,
    PolicyReport,
    RuleState,
    RuleValue,
)
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid, Reason
from verdictd_py.policy import appraisal, explain, trustee
from verdictd_py.policy.engine import CompiledPolicy, PolicyResult, in_thread
from verdictd_py.policy.floor import Pinning
from verdictd_py.ports import PolicyDocuments, Tee, Tees

Claims = Mapping[str, JsonValue]


class PolicyReports:
    """Reports of tested policies (port `PolicyReporter`).

    Args:
        tees: TEEs whose claims can be tested.
        pinning: as for `RegoAppraisalPolicy`.
    """

    def __init__(self, tees: Tees, *, pinning: Pinning) -> None:
        self._tees = tees
        self._pinning = pinning

    async def outline(self, policy: str) -> PolicyOutline:
        return await in_thread(lambda: outline(CompiledPolicy.compile(policy, "{}")))

    async def report(
        self, documents: PolicyDocuments, claims: Claims, tee: str | None
    ) -> PolicyReport:
        return await in_thread(self._report, documents, claims, tee)

    def token_members(self, tee: str, claims: Claims, trust: TrustVector) -> Claims:
        return {trustee.SUBMODS: trustee.submods(self._tees, tee, claims, trust)}

    def _report(self, documents: PolicyDocuments, claims: Claims, tee: str | None) -> PolicyReport:
        return report(
            CompiledPolicy.compile(documents.policy, documents.reference),
            documents.policy,
            claims,
            self._tees.get(tee),
            pinning=self._pinning,
        )


def report(
    compiled: CompiledPolicy,
    source: str,
    claims: Claims,
    tee: Tee | None,
    *,
    pinning: Pinning,
) -> PolicyReport:
    """Return the report of a policy and the claims of one guest.

    Args:
        source: text of the policy, for the lines of comparisons.
        tee: TEE of the claims; None for the input of a release policy.

    An evaluation that fails is a refusal, as in the broker; `error` names its cause.
    """
    reference = compiled.reference.values
    compared = () if tee is None else tuple(_claims(tee, claims, reference))
    data = request_data(claims, tee)
    try:
        result = compiled.evaluate(claims, data)
    except PolicyInvalid as error:
        return PolicyReport(
            allow=False,
            tee=None if tee is None else tee.name,
            error=str(error),
            reasons=appraisal.evaluation_failed(tee, claims, error),
            rules=rule_values(compiled, None),
            claims=compared,
            comparisons=(),
            comparisons_made=0,
        )
    documents = PolicyDocuments.combine(source, compiled.reference)
    comparisons, made, notes = _comparisons(compiled, source, claims, data, result)
    return PolicyReport(
        allow=result.allow,
        tee=None if tee is None else tee.name,
        error="",
        reasons=decision(documents, claims, result, tee, pinning=pinning),
        rules=rule_values(compiled, result.document),
        claims=compared,
        comparisons=comparisons,
        comparisons_made=made,
        notes=notes,
    )


def request_data(claims: Claims, tee: Tee | None) -> dict[str, JsonValue]:
    """Return the data that a release policy gets for this input; none for appraisal policies."""
    return {} if tee is not None else trustee.request(claims)


def outline(compiled: CompiledPolicy) -> PolicyOutline:
    """Return the syntax and the rules of a policy."""
    return PolicyOutline(compiled.syntax, tuple(rule.name for rule in rule_values(compiled, None)))


def decision(
    documents: PolicyDocuments,
    claims: Claims,
    result: PolicyResult,
    tee: Tee | None,
    *,
    pinning: Pinning,
) -> tuple[Reason, ...]:
    """Return every reason to refuse; empty accepts the guest, or releases the secret to it."""
    if tee is not None:
        return appraisal.refusals(tee, documents, claims, result, pinning)
    if result.allow:
        return ()
    return explain.own_reasons(result.document) or (appraisal.unexplained_refusal(result),)


def rule_values(
    compiled: CompiledPolicy, document: Mapping[str, JsonValue] | None
) -> tuple[RuleValue, ...]:
    """Return every rule of the package in the order of the policy, once each.

    Args:
        document: value of every rule that is defined; None if the evaluation failed.
    """
    lines: dict[tuple[str, ...], list[int]] = {}
    for definition in compiled.definitions:
        lines.setdefault(definition.path, []).append(definition.line)
    functions = {definition.path for definition in compiled.definitions if definition.function}
    return tuple(
        _rule(path, tuple(of_path), path in functions, document) for path, of_path in lines.items()
    )


def _rule(
    path: tuple[str, ...],
    lines: tuple[int, ...],
    function: bool,
    document: Mapping[str, JsonValue] | None,
) -> RuleValue:
    name = ".".join(path)
    if function:
        return RuleValue(name, lines, RuleState.FUNCTION)
    if document is None:
        return RuleValue(name, lines, RuleState.FAILED)
    value: JsonValue = dict(document)
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return RuleValue(name, lines, RuleState.UNDEFINED)
        value = value[part]
    return RuleValue(name, lines, RuleState.DEFINED, value)


def _claims(tee: Tee, claims: Claims, reference: Reference) -> Iterator[ClaimComparison]:
    """Compare each claim that the reference data or the TEE itself has a value for."""
    differing = {reason.rule for reason in explain.differences(tee, claims, reference)}
    names = [*tee.claims, *sorted((reference.keys() & claims.keys()) - tee.claims.keys())]
    for name in names:
        claim = tee.claims.get(name)
        how = MatchRule.ONE_OF if claim is None else claim.match
        expected: JsonValue = False if how is MatchRule.ALWAYS_FALSE else reference.get(name)
        if tee.tcb is not None and name == tee.tcb.claim and not expected:
            expected = list(tee.tcb.accepted)
        if expected is None and not (claim is not None and claim.measurement):
            continue
        result = "any value" if expected in (None, []) else "fits"
        if name in differing:
            result = "differs"
        yield ClaimComparison(name, claims.get(name), how.value, expected, result)


def _comparisons(
    compiled: CompiledPolicy, source: str, claims: Claims, data: Claims, result: PolicyResult
) -> tuple[tuple[Comparison, ...], int, tuple[str, ...]]:
    """Return the comparisons that the policy made, and a note if they could not be recorded."""
    try:
        trace = compiled.trace(claims, data)
    except PolicyInvalid as error:
        return (), 0, (f"the comparisons could not be recorded: {error}",)
    if trace.document != result.document:
        return (), 0, ("the comparisons could not be recorded: the second evaluation differs",)
    lines = source.removeprefix("\ufeff").split("\n")
    return tuple(_comparison(row, lines) for row in trace.rows), trace.made, ()


def _comparison(row: Mapping[str, JsonValue], lines: list[str]) -> Comparison:
    line = row["line"]
    number = line if isinstance(line, int) else 0
    return Comparison(
        line=number,
        source=lines[number - 1].strip() if 0 < number <= len(lines) else "",
        left=str(row["left"]),
        operator=str(row["operator"]),
        right=str(row["right"]),
        result=row["result"] is True,
    )
