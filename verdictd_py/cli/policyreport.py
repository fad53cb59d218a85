"""Output of policy checks and tests: the members of the JSON report, and text for people."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from verdictd_py.cli.management.show import CommandOutput, cell, facts_table, table

_COUNTS = ("true", "false", "value", "empty", "undefined")


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
    parts: list[RenderableType] = [facts_table(facts), ""]
    rules = [(rule["rule"], _value(rule), _lines(rule["lines"])) for rule in report["rules"]]
    parts.append(table(("rule", "value", "lines"), rules))
    claims = [
        (claim["claim"], _claim(claim["measured"]), _expected(claim), claim["result"])
        for claim in report["claims"]
    ]
    if claims:
        parts += ["", table(("claim", "measured", "reference data", "result"), claims)]
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
        parts += ["", table(("line", "policy", "compared", "result"), compared)]
    if (more := report["comparisonsMade"] - len(compared)) > 0:
        parts.append(cell(f"{more} further comparisons are not listed"))
    parts.append("")
    parts += [cell(f"reason: {reason['text']}") for reason in report["reasons"]]
    parts += [cell(f"note: {note}") for note in report["notes"]]
    return CommandOutput(
        dict(report), Group(*parts), status=0 if report["verdict"] == "accepted" else 1
    )


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
    parts: list[RenderableType] = [table(("rule", *_COUNTS, ""), rules), "", facts_table(facts)]
    parts += [cell(f"{item['file']}: {item['problem']}") for item in report["problems"]]
    incomplete = report["neverDecided"] or report["problems"]
    return CommandOutput(dict(report), Group(*parts), status=1 if incomplete else 0)


def usable(name: str, syntax: str, rules: list[str]) -> CommandOutput:
    """Return the result for a policy that can be stored."""
    text = f"{name} can be used: Rego {syntax}, rules {', '.join(rules)}"
    return CommandOutput(
        {"usable": True, "syntax": syntax, "rules": rules, "problem": ""}, cell(text)
    )


def unusable(name: str, problem: str) -> CommandOutput:
    """Return the result for a policy that cannot be stored; status 1."""
    data = {"usable": False, "syntax": "", "rules": [], "problem": problem}
    return CommandOutput(data, cell(f"{name} cannot be used: {problem}"), status=1)


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
