"""The functions that docs/reference/rego.md lists are those that the engine has."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "reference" / "rego.md").read_text(encoding="utf-8")
NAME: Final = r"([a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*)"


def listed(begin: str, end: str) -> list[str]:
    """Return the names in code style between two places of the page."""
    found = re.findall(f"`{NAME}`", PAGE[PAGE.index(begin) : PAGE.index(end)])
    assert len(found) == len(set(found)), "a function is listed twice"
    return found


AVAILABLE: Final = listed("and these functions:", "### Absent on purpose")
ABSENT: Final = {
    name: reason
    for reason, names in re.findall(r"^\| (a policy has no \w+) \| (.*) \|$", PAGE, re.MULTILINE)
    for name in re.findall(f"`{NAME}`", names)
}
_NOT_YET: Final = PAGE[PAGE.index("### Not available yet") : PAGE.index("OPA's names of")]
USE_INSTEAD: Final = {"regex.match", "object.filter", "object.remove"}
NOT_YET: Final = sorted(set(re.findall(f"`{NAME}`", _NOT_YET)) - USE_INSTEAD)
OPERATORS: Final = listed("OPA's names of operators", "cannot be called")
EVERY: Final = sorted([*AVAILABLE, *ABSENT, *NOT_YET, *OPERATORS])


def refusal(call: str) -> str:
    """Return the message with which a policy with this call is refused."""
    with pytest.raises(PolicyInvalid) as caught:
        CompiledPolicy.compile(f"package policy\nimport rego.v1\nallow if {call}", "{}")
    return str(caught.value)


@pytest.mark.parametrize("name", AVAILABLE)
def test_the_engine_has_what_the_page_lists(name: str) -> None:
    assert re.search(rf"{re.escape(name)} takes (a value|\d operands)", refusal(f"{name}()"))


@pytest.mark.parametrize("name", ABSENT)
def test_a_function_excluded_on_purpose_is_refused_for_the_reason_on_the_page(name: str) -> None:
    assert f"{name} (absent on purpose: {ABSENT[name]})" in refusal(f"{name}(1)")


@pytest.mark.parametrize("name", NOT_YET)
def test_a_function_that_is_not_available_yet_is_refused_with_that_reason(name: str) -> None:
    assert f"{name} (not available yet)" in refusal(f"{name}(1)")


@pytest.mark.parametrize("name", OPERATORS)
def test_the_name_of_an_operator_is_refused(name: str) -> None:
    assert f"{name} (not available: write the operator)" in refusal(f"{name}(1, 2)")


def test_the_page_lists_every_function_that_the_engine_knows() -> None:
    source = (ROOT / "policy_engine" / "src" / "names.rs").read_text(encoding="utf-8")
    known = set(re.findall(f'"{NAME}"', source))
    assert sorted(known - {"unknown"}) == EVERY


@pytest.mark.skipif(
    shutil.which("opa") is None and not os.environ.get("REQUIRE_OPA"),
    reason="OPA is not installed (on PATH)",
)
def test_the_page_lists_every_function_of_opa() -> None:
    done = subprocess.run(["opa", "capabilities", "--current"], check=True, stdout=subprocess.PIPE)
    functions = {each["name"] for each in json.loads(done.stdout)["builtins"]}
    assert {name for name in functions if not name.startswith("internal.")} == set(EVERY)
