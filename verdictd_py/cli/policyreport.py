"""Reports of tested and checked policies as text, of the members that `--json` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from verdictd_py.cli.management.show import Shown, cell, facts_table, table

_COUNTS = ("true", "false", "value", "empty", "undefined")


def tested(report: Mapping[str, Any]) -> Shown:
    """Return a report (`PolicyReport.as_json`) in both forms; status 1 if it refuses.

    Raises:
        KeyError, TypeError: it is no report.
    """
    facts: list[tuple[str, object]] = [
        ("verdict", report["verdict"]),
        ("allow", _json(report["allow"])),
        ("TEE", report["tee"] or "none: the input of a release policy"),
    ]
    if report["error"]:
        facts.append(("failed", report["error"]))
    parts: list[RenderableType] = [facts_table(facts), ""]
    rules = [(each["rule"], _value(each), _lines(each["lines"])) for each in report["rules"]]
    parts.append(table(("rule", "value", "lines"), rules))
    claims = [
        (each["claim"], _claim(each["measured"]), _expected(each), each["result"])
        for each in report["claims"]
    ]
    if claims:
        parts += ["", table(("claim", "measured", "reference data", "result"), claims)]
    compared = [
        (
            each["line"],
            each["source"],
            f"{each['left']} {each['operator']} {each['right']}",
            _json(each["result"]),
        )
        for each in report["comparisons"]
    ]
    if compared:
        parts += ["", table(("line", "policy", "compared", "result"), compared)]
    if (more := report["comparisonsMade"] - len(compared)) > 0:
        parts.append(cell(f"{more} further comparisons are not listed"))
    parts.append("")
    parts += [cell(f"reason: {each['text']}") for each in report["reasons"]]
    parts += [cell(f"note: {each}") for each in report["notes"]]
    return Shown(dict(report), Group(*parts), status=0 if report["verdict"] == "accepted" else 1)


def covered(report: Mapping[str, Any]) -> Shown:
    """Return a report of coverage in both forms; status 1 if something is not covered."""
    rules = [
        (
            each["rule"],
            *(("", "", "", "", "") if each["kind"] == "function" else map(each.get, _COUNTS)),
            ("evaluated" if each["decided"] else "never evaluated")
            if each["kind"] == "function"
            else ("" if each["decided"] else "never decided"),
        )
        for each in report["rules"]
    ]
    judged = f"{report['accepted']} accepted, {report['refused']} refused"
    facts: list[tuple[str, object]] = [("guests", report["guests"]), ("verdicts", judged)]
    facts.append(("never decided", ", ".join(report["neverDecided"]) or "-"))
    facts.append(("lines not reached", _lines(report["linesNotReached"]) or "-"))
    parts: list[RenderableType] = [table(("rule", *_COUNTS, ""), rules), "", facts_table(facts)]
    parts += [cell(f"{each['file']}: {each['problem']}") for each in report["problems"]]
    incomplete = report["neverDecided"] or report["problems"]
    return Shown(dict(report), Group(*parts), status=1 if incomplete else 0)


def checked(name: str, syntax: str, rules: list[str]) -> Shown:
    """Return the answer for a policy that can be set."""
    text = f"{name} can be used: Rego {syntax}, rules {', '.join(rules)}"
    return Shown({"usable": True, "syntax": syntax, "rules": rules, "problem": ""}, cell(text))


def unusable(name: str, problem: str) -> Shown:
    """Return the answer for a policy that cannot be set; status 1."""
    data = {"usable": False, "syntax": "", "rules": [], "problem": problem}
    return Shown(data, cell(f"{name} cannot be used: {problem}"), status=1)


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
    """Text as it is, "-" for a claim that was not measured, everything else as JSON."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else _json(value)


def _lines(lines: list[int]) -> str:
    return ", ".join(map(str, lines))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
