"""Output of policy checks and tests: the members of the JSON report, and text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from verdictd_py.cli.output.difference import Difference
from verdictd_py.cli.output.layout import Block, Column, Facts, Group, Kind, Table, Text
from verdictd_py.cli.output.result import CommandOutput

_COUNTS: Final = ("true", "false", "value", "empty", "undefined")

_RULES: Final = ("rule", Column("value", Kind.VALUE), Column("lines", Kind.SENTENCE))
_CLAIMS: Final = (
    "claim",
    Column("measured", optional=True),
    Column("reference data", optional=True),
    "result",
)
_COMPARED: Final = (
    Column("line", Kind.NUMBER),
    Column("policy", Kind.VALUE),
    Column("compared", Kind.VALUE),
    "result",
)


def decision(report: Mapping[str, Any]) -> CommandOutput:
    """Return the report of a test (`PolicyReport.as_json`); status 1 if the guest is refused.

    Raises:
        KeyError, TypeError: a member is missing or has another type.
    """
    facts: list[tuple[str, object]] = [
        ("verdict", report["verdict"]),
        ("allow", _json(report["allow"])),
        ("TEE", report["tee"] or "none: the input of a release policy"),
    ]
    if report["error"]:
        facts.append(("failed", report["error"]))
    rules = [(rule["rule"], _value(rule), _lines(rule["lines"])) for rule in report["rules"]]
    parts: list[Block | str] = [Facts(facts), "", Table(_RULES, rules)]
    claims = [
        (claim["claim"], _claim(claim["measured"]), _expected(claim), claim["result"])
        for claim in report["claims"]
    ]
    if claims:
        parts += ["", Table(_CLAIMS, claims)]
    compared = [
        (
            comparison["line"],
            comparison["source"],
            f"{comparison['left']} {comparison['operator']} {comparison['right']}",
            _json(comparison["result"]),
        )
        for comparison in report["comparisons"]
    ]
    if compared:
        parts += ["", Table(_COMPARED, compared)]
    if (more := report["comparisonsMade"] - len(compared)) > 0:
        parts.append(f"{more} further comparisons are not listed")
    parts += _differences(report["claims"])
    shown = {block.name for block in parts if isinstance(block, Difference)}
    texts = [reason["text"] for reason in report["reasons"] if reason["rule"] not in shown]
    closing = [f"reason: {text}" for text in texts]
    closing += [f"note: {note}" for note in report["notes"]]
    parts += ["", *closing] if closing else []
    status = 0 if report["verdict"] == "accepted" else 1
    return CommandOutput("policy-test", dict(report), Group(*parts), status=status)


def _differences(claims: Sequence[Mapping[str, Any]]) -> list[Block | str]:
    """Return the claims that differ from a list of values, each above these values."""
    parts: list[Block | str] = []
    for claim in claims:
        measured, expected = claim["measured"], claim["expected"]
        if (
            claim["result"] == "differs"
            and isinstance(measured, str)
            and isinstance(expected, list)
        ):
            values = [_claim(value) for value in expected]
            parts += ["", Difference(claim["claim"], ("measured", "expected"), measured, values)]
    return parts


def coverage(report: Mapping[str, Any]) -> CommandOutput:
    """Return the report of coverage; status 1 for an undecided rule or a problem."""
    rules = [
        (
            rule["rule"],
            *(("", "", "", "", "") if rule["kind"] == "function" else map(rule.get, _COUNTS)),
            ("evaluated" if rule["decided"] else "never evaluated")
            if rule["kind"] == "function"
            else ("" if rule["decided"] else "never decided"),
        )
        for rule in report["rules"]
    ]
    verdicts = f"{report['accepted']} accepted, {report['refused']} refused"
    facts: list[tuple[str, object]] = [("guests", report["guests"]), ("verdicts", verdicts)]
    facts.append(("never decided", ", ".join(report["neverDecided"]) or "-"))
    facts.append(("lines not reached", _lines(report["linesNotReached"]) or "-"))
    parts: list[Block | str] = [Table(("rule", *_COUNTS, ""), rules), "", Facts(facts)]
    parts += [f"{item['file']}: {item['problem']}" for item in report["problems"]]
    incomplete = report["neverDecided"] or report["problems"]
    status = 1 if incomplete else 0
    return CommandOutput("policy-coverage", dict(report), Group(*parts), status=status)


def usable(name: str, syntax: str, rules: list[str]) -> CommandOutput:
    """Return the result for a policy that can be stored."""
    text = f"{name} can be used: Rego {syntax}, rules {', '.join(rules)}"
    data = {"usable": True, "syntax": syntax, "rules": rules, "problem": ""}
    return CommandOutput("policy-check", data, Text(text))


def unusable(name: str, problem: str) -> CommandOutput:
    """Return the result for a policy that cannot be stored; status 1."""
    data = {"usable": False, "syntax": "", "rules": [], "problem": problem}
    text = Text(f"{name} cannot be used: {problem}")
    return CommandOutput("policy-check", data, text, status=1)


def _value(rule: Mapping[str, Any]) -> str:
    if rule["state"] == "defined":
        return _json(rule["value"])
    return {"function": "(function)", "failed": "(failed)"}.get(rule["state"], "(undefined)")


def _expected(comparison: Mapping[str, Any]) -> str:
    expected = comparison["expected"]
    if expected in (None, []):
        return "-"
    if isinstance(expected, list):
        return f"{comparison['how']} {', '.join(map(_claim, expected))}"
    return f"at least {_json(expected)}" if comparison["how"] == "at least" else _json(expected)


def _claim(value: object) -> str:
    """Return text unchanged, "-" for a claim that was not measured, and other values as JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else _json(value)


def _lines(lines: list[int]) -> str:
    return ", ".join(map(str, lines))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
