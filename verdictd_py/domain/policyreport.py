"""Values of the report about a test of a policy: its decision about some claims, and why.

The members of `PolicyReport.as_json` are stable: `docs/policies.md` documents them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason


class RuleState(StrEnum):
    """State of a rule after an evaluation."""

    DEFINED = "defined"
    UNDEFINED = "undefined"
    FUNCTION = "function"
    """The rule takes arguments, so it has no value."""
    FAILED = "failed"
    """The evaluation failed, so that no rule has a value."""


@dataclass(frozen=True, slots=True)
class RuleValue:
    """Value of one rule of the policy's package.

    Attributes:
        name: name in the policy, parts separated by dots.
        lines: lines in which its definitions begin, from 1 on.
        value: value of a rule that is defined, otherwise None.
    """

    name: str
    lines: tuple[int, ...]
    state: RuleState
    value: JsonValue = None

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "rule": self.name,
            "state": self.state.value,
            "value": self.value,
            "lines": list(self.lines),
        }


@dataclass(frozen=True, slots=True)
class ClaimComparison:
    """Comparison of a claim with the reference data, as the packaged policies make it.

    Attributes:
        measured: the claim; None if the guest has no claim of that name.
        how: `one of`, `each one of`, `at least` or `false`.
        expected: the reference value; None if there is none.
        result: `fits`, `differs`, or `any value` if the reference data accepts any.
    """

    claim: str
    measured: JsonValue
    how: str
    expected: JsonValue
    result: str

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "claim": self.claim,
            "measured": self.measured,
            "how": self.how,
            "expected": self.expected,
            "result": self.result,
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """A comparison that the policy made.

    Attributes:
        line: line of the statement in the policy, from 1 on.
        source: text of this line.
        operator: `==`, `!=`, `<`, `<=`, `>`, `>=` or `in`.
        left, right: operands as JSON; a long operand is truncated and ends with `...`.
    """

    line: int
    source: str
    left: str
    operator: str
    right: str
    result: bool

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "line": self.line,
            "source": self.source,
            "left": self.left,
            "operator": self.operator,
            "right": self.right,
            "result": self.result,
        }


@dataclass(frozen=True, slots=True)
class PolicyOutline:
    """Syntax version and rules of a policy that was compiled.

    Attributes:
        syntax: version of Rego as which it was compiled, `v1` or `v0`.
        rules: names of its rules and functions, in the order of the policy.
    """

    syntax: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """Result of testing a policy with the claims of one guest.

    Attributes:
        allow: whether the policy's `allow` is `true`.
        tee: TEE of the claims; None for the input of a release policy.
        error: why the policy could not be evaluated; empty if it could.
        reasons: every reason to refuse the guest, also those that no policy can overrule.
        comparisons: the first comparisons that the policy made.
        comparisons_made: number of all comparisons that the policy made.
        notes: what the operator has to know about this test.
    """

    allow: bool
    tee: str | None
    error: str
    reasons: tuple[Reason, ...]
    rules: tuple[RuleValue, ...]
    claims: tuple[ClaimComparison, ...]
    comparisons: tuple[Comparison, ...]
    comparisons_made: int
    notes: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the broker would accept the guest, or release to it."""
        return self.allow and not self.reasons

    def as_json(self) -> dict[str, JsonValue]:
        """Return the report of `policy test --json`; all members are always present."""
        return {
            "verdict": "accepted" if self.accepted else "refused",
            "allow": self.allow,
            "tee": self.tee,
            "error": self.error,
            "reasons": [_reason(reason) for reason in self.reasons],
            "rules": [rule.as_json() for rule in self.rules],
            "claims": [claim.as_json() for claim in self.claims],
            "comparisons": [comparison.as_json() for comparison in self.comparisons],
            "comparisonsMade": self.comparisons_made,
            "notes": list(self.notes),
        }


def _reason(reason: Reason) -> dict[str, JsonValue]:
    members: Mapping[str, JsonValue] = dict(reason.as_json())
    return dict(members)
