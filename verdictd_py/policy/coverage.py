"""Coverage of a policy by recorded claims: the values that they gave each rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from verdictd_py.domain.policyreport import RuleState
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.floor import Pinning
from verdictd_py.policy.report import decision, request_data, rule_values
from verdictd_py.ports import PolicyDocuments, Tee


@dataclass(slots=True)
class Counts:
    """Numbers of recorded claims by the value that they gave a rule.

    Attributes:
        true, false: the two booleans.
        value: another value that is not empty.
        empty: an empty list, set, object or text.
        undefined: no value.
    """

    true: int = 0
    false: int = 0
    value: int = 0
    empty: int = 0
    undefined: int = 0

    @property
    def decided(self) -> bool:
        """Whether any claims gave the rule a value that is not empty."""
        return bool(self.true or self.false or self.value)

    def add(self, state: RuleState, value: JsonValue) -> None:
        """Count one value of the rule."""
        if state is not RuleState.DEFINED:
            self.undefined += 1
        elif value is True:
            self.true += 1
        elif value is False:
            self.false += 1
        elif value in ("", [], {}):
            self.empty += 1
        else:
            self.value += 1


class PolicyCoverage:
    """Evaluates a policy for recorded claims and counts the values of its rules.

    Args:
        pinning: as for `RegoAppraisalPolicy`.

    Attributes:
        accepted, refused: claims by the broker's decision.
    """

    def __init__(self, compiled: CompiledPolicy, *, pinning: Pinning) -> None:
        self.accepted = 0
        self.refused = 0
        self._compiled = compiled
        self._pinning = pinning
        self._lines = compiled.coverage()
        self._rules = {rule.name: (rule, Counts()) for rule in rule_values(compiled, None)}

    def add(self, claims: Mapping[str, JsonValue], tee: Tee | None) -> None:
        """Count one guest.

        Raises:
            PolicyInvalid: the policy could not be evaluated, and the guest is counted as refused,
                as the broker does; or the lines could not be recorded.
        """
        data = request_data(claims, tee)
        try:
            result = self._compiled.evaluate(claims, data)
        except PolicyInvalid:
            self.refused += 1
            raise
        # The text of the policy is needed for explanations only.
        documents = PolicyDocuments.combine("", self._compiled.reference)
        reasons = decision(documents, claims, result, tee, pinning=self._pinning)
        if reasons:
            self.refused += 1
        else:
            self.accepted += 1
        for rule in rule_values(self._compiled, result.document):
            self._rules[rule.name][1].add(rule.state, rule.value)
        self._lines.evaluate(claims, data)

    @property
    def never_decided(self) -> tuple[str, ...]:
        """Rules without any non-empty value, and functions that were never evaluated."""
        return tuple(name for name in self._rules if not self._is_decided(name))

    @property
    def lines_not_reached(self) -> tuple[int, ...]:
        """Lines, counted from 1, with an expression that no evaluation reached."""
        return tuple(sorted(self._lines.not_reached))

    def as_json(self) -> dict[str, JsonValue]:
        """Return the members of `policy test --coverage --json` that describe the policy."""
        rules: list[JsonValue] = []
        for name, (rule, counts) in self._rules.items():
            function = rule.state is RuleState.FUNCTION
            numbers = {item.name: getattr(counts, item.name) for item in fields(counts)}
            rules.append(
                {
                    "rule": name,
                    "kind": "function" if function else "value",
                    "lines": list(rule.lines),
                    "decided": self._is_decided(name),
                    **(dict.fromkeys(numbers, 0) if function else numbers),
                }
            )
        return {
            "accepted": self.accepted,
            "refused": self.refused,
            "rules": rules,
            "neverDecided": list(self.never_decided),
            "linesNotReached": list(self.lines_not_reached),
        }

    def _is_decided(self, name: str) -> bool:
        rule, counts = self._rules[name]
        if rule.state is not RuleState.FUNCTION:
            return counts.decided
        return any(self._is_reached(line) for line in rule.lines)

    def _is_reached(self, line: int) -> bool:
        """Whether an evaluation reached the definition that begins at this line."""
        later = [rule.line for rule in self._compiled.definitions if rule.line > line]
        end = min(later, default=None)
        return any(line <= at and (end is None or at < end) for at in self._lines.reached)
