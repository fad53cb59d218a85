"""The source of a policy with the values of its rules next to the lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MAX_VALUE_CHARACTERS: Final = 300

_KEYWORDS: Final = frozenset(
    {"package", "import", "default", "if", "contains", "in", "some", "every", "not", "else", "with"}
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the source.

    Attributes:
        kind: `comment`, `head` (of a rule) or empty.
        values: values of the rules that begin here, and of comparisons: text, and whether it
            is what refuses the guest.
    """

    number: int
    text: str
    kind: str
    values: tuple[tuple[str, bool], ...]

    @property
    def hit(self) -> bool:
        return any(refuses for _, refuses in self.values)


@dataclass(frozen=True, slots=True)
class Source:
    """The source of a policy.

    Attributes:
        lines: its lines, at most those that a policy may have.
    """

    lines: tuple[Line, ...]


def policy_source(source: str, report: Mapping[str, Any] | None) -> Source:
    """Return the lines of a policy.

    Args:
        report: result of a test (`docs/policies.md`); None without a test.
    """
    values: dict[int, list[tuple[str, bool]]] = {}
    for rule in () if report is None else report["rules"]:
        text, refuses = _rule(rule)
        for line in rule["lines"][:1]:
            values.setdefault(line, []).append((text, refuses))
    for each in () if report is None else report["comparisons"]:
        text = f"{each['left']} {each['operator']} {each['right']}: {json.dumps(each['result'])}"
        values.setdefault(each["line"], []).append((_cut(text), False))
    return Source(
        tuple(
            Line(number, text, _kind(text), tuple(dict.fromkeys(values.get(number, ()))))
            for number, text in enumerate(source.removesuffix("\n").split("\n"), 1)
        )
    )


def _rule(rule: Mapping[str, Any]) -> tuple[str, bool]:
    if rule["state"] != "defined":
        return f"{rule['rule']}: {rule['state']}", rule["rule"] == "allow"
    value = rule["value"]
    refuses = (rule["rule"] == "allow" and value is not True) or (
        rule["rule"] in ("mismatches", "reasons") and bool(value)
    )
    return _cut(f"{rule['rule']} = {json.dumps(value, ensure_ascii=False)}"), refuses


def _cut(text: str) -> str:
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + "…"


def _kind(text: str) -> str:
    if text.lstrip().startswith("#"):
        return "comment"
    first = text.partition(" ")[0]
    return "head" if text[:1].isalpha() and first not in _KEYWORDS else ""
