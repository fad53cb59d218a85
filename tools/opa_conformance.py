"""Runs the conformance cases of Open Policy Agent with the policy engine, and counts the outcomes.

Usage: opa_conformance.py CHECKOUT [--show OUTCOME]

CHECKOUT is the source tree of OPA in the version of tools/go-tools.txt. After `go install` it is
in the module cache: `$(go env GOMODCACHE)/github.com/open-policy-agent/opa@v1.4.2`. The program
`opa` reads the cases, so that their YAML means what it means to OPA.

The outcomes:

* same answer
* both fail: an error, where OPA has one
* refused: the policy is refused when it is set
* failed: the evaluation ends with an error
* different: another answer than OPA's, without an error; the command then ends with 1
* not applicable: the input of the case is not JSON, so that no guest can have it
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.instances import COMPILE_FUEL, DECISION_FUEL, EngineInstance

CASES: Final = "v1/test/cases/testdata"
OUTCOMES: Final = ("same answer", "both fail", "refused", "failed", "different", "not applicable")
MODES: Final = {"errors refuse, as in the broker": False, "errors are undefined, as in OPA": True}
_FUNCTION: Final = re.compile(r"([\w.]+) \((not available yet|absent on purpose|unknown|not)\b")


@dataclass(frozen=True)
class Case:
    """A case with its name and the syntax of its modules."""

    name: str
    v0: bool
    content: dict[str, Any]

    @property
    def fails(self) -> bool:
        return bool(self.content.get("want_error") or self.content.get("want_error_code"))


def read_cases(checkout: Path) -> Iterator[Case]:
    """Read every case below the checkout with `opa`."""
    root = checkout / CASES
    paths = sorted(root.rglob("*.yaml"))
    arguments = [f"--data=file{number}:{path}" for number, path in enumerate(paths)]
    done = subprocess.run(
        ["opa", "eval", "--format=json", *arguments, "data"], check=True, stdout=subprocess.PIPE
    )
    documents = json.loads(done.stdout)["result"][0]["expressions"][0]["value"]
    for number, path in enumerate(paths):
        for case in documents[f"file{number}"]["cases"]:
            version = path.relative_to(root).parts[0]
            yield Case(f"{version}/{case['note']}", version == "v0", case)


def outcome(case: Case, *, lenient: bool) -> tuple[str, str]:
    """Run a case and return its outcome with the reason."""
    content = case.content
    request = {
        "policy": "",
        "modules": content.get("modules") or [],
        "data": content.get("data") or {},
        "query": content["query"],
        "v0": case.v0,
        "lenient": lenient and not content.get("strict_error"),
    }
    instance = EngineInstance()
    try:
        instance.call("compile", json.dumps(request).encode(), COMPILE_FUEL)
    except PolicyInvalid as error:
        return ("both fail" if case.fails else "refused"), str(error)
    try:
        given = _input(content)
    except PolicyInvalid as error:
        return "not applicable", str(error)
    try:
        answer = instance.call("evaluate", given, DECISION_FUEL)["results"]
    except PolicyInvalid as error:
        return ("both fail" if case.fails else "failed"), str(error)
    if _is_expected(case, answer):
        return "same answer", ""
    return "different", f"{json.dumps(answer)} instead of {json.dumps(_expected(content))}"


def _input(content: dict[str, Any]) -> bytes:
    """Input of a case as JSON; empty if it has none."""
    term = content.get("input_term")
    if term is None:
        return json.dumps(content["input"]).encode() if "input" in content else b""
    try:
        json.loads(term)
    except ValueError as error:
        raise PolicyInvalid("the input is not JSON") from error
    return str(term).encode()


def _expected(content: dict[str, Any]) -> object:
    return content.get("want_result", content.get("want_defined"))


def _is_expected(case: Case, rows: list[list[Any]]) -> bool:
    """Compare the bindings, which have no order, as OPA's own runner does."""
    content = case.content
    if case.fails:
        return False
    if "want_result" in content:
        ordered = not content.get("sort_bindings")
        bindings = [
            {name: value for name, value in row.items() if not name.startswith("__")}
            for row, _ in rows
        ]
        wanted = content["want_result"] or []
        return _sorted(bindings, ordered=ordered) == _sorted(wanted, ordered=ordered)
    defined = any(all(value is not False for value in values) for _, values in rows)
    return bool(content["want_defined"]) == defined


def _sorted(rows: list[dict[str, Any]], *, ordered: bool) -> list[str]:
    return sorted(json.dumps(row if ordered else _unordered(row), sort_keys=True) for row in rows)


def _unordered(value: object) -> object:
    if isinstance(value, list):
        return sorted((_unordered(each) for each in value), key=json.dumps)
    if isinstance(value, dict):
        return {name: _unordered(each) for name, each in value.items()}
    return value


def topic(reason: str) -> str:
    """Return the reason without numbers, or the families of the functions that it names."""
    functions = _FUNCTION.findall(reason)
    if functions:
        return ", ".join(sorted({f"{name.split('.')[0]} ({why})" for name, why in functions}))
    words = re.sub(r"^(line \d+(, column \d+)?: )+|\d[\d.e]*", "", reason)
    return re.sub(r"variable \S+", "variable", words)[:60]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Run OPA's conformance cases.")
    parser.add_argument("checkout", type=Path, help="source tree of OPA")
    parser.add_argument("--show", choices=OUTCOMES, help="print each case of this outcome")
    arguments = parser.parse_args(argv)
    cases = list(read_cases(arguments.checkout))
    different = 0
    reasons: Counter[tuple[str, str]] = Counter()
    for title, lenient in MODES.items():
        counts: Counter[str] = Counter()
        for case in cases:
            result, reason = outcome(case, lenient=lenient)
            counts[result] += 1
            reasons[result, topic(reason)] += not lenient
            if result in (arguments.show, "different"):
                print(f"{result}: {case.name}: {reason}")
        print(f"{title}: " + ", ".join(f"{counts[each]} {each}" for each in OUTCOMES))
        different += counts["different"]
    print("why, in the broker:")
    for (result, reason), number in reasons.most_common():
        if result in ("refused", "failed") and number:
            print(f"{number:6} {result}: {reason}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
