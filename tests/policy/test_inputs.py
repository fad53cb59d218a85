"""The decision for each policy of `tests/inputs/rego`, as OPA 1.4.2 decides.

OPA evaluated `v0-classic.rego` and `partial-set-old.rego` with `--v0-compatible`; it refuses them
without that option.
"""

from __future__ import annotations

import json

import pytest

from tests.support.vectors import input_file
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy

DENIED = {
    "shadow-fail-open.rego",
    "unicode-escape-fail-open.rego",
    "v0-classic.rego",
    "v1-submods.rego",
}
"""Policies whose `allow` is false in OPA."""

REFUSED = {  # what the error contains; OPA evaluates those with a star
    "bits.rego": "the variable i is unsafe",
    "glob.rego": "glob.match (not available yet)",  # *
    "httpsend.rego": "http.send (absent on purpose: a policy has no network)",  # *
    "opa-print.rego": "print (absent on purpose: a policy has no output)",  # *
    "other-package.rego": "no rule `allow` in `package policy`",
    "set-ops.rego": "line 6, column 16: expecting identifier",  # *
    "time.rego": "time.now_ns (absent on purpose: a policy has no clock)",  # *
    "yaml.rego": "yaml.unmarshal (not available yet)",  # *
}
"""Policies that are refused when they are stored, so that they accept no guest."""

POLICIES = sorted(path.name for path in input_file("rego").iterdir())


def compiled(name: str) -> CompiledPolicy:
    return CompiledPolicy.compile(
        (input_file("rego") / name).read_text(), input_file("rego-data.json").read_text()
    )


def test_every_policy_that_is_named_exists() -> None:
    assert {*DENIED, *REFUSED} <= set(POLICIES)
    assert len(POLICIES) >= 36


@pytest.mark.parametrize("name", [name for name in POLICIES if name not in REFUSED])
def test_the_decision_is_that_of_opa(name: str) -> None:
    claims = json.loads(input_file("rego-input.json").read_bytes())
    assert compiled(name).evaluate(claims).allow is (name not in DENIED)


@pytest.mark.parametrize("name", REFUSED)
def test_a_policy_that_the_engine_cannot_evaluate_is_refused(name: str) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        compiled(name)
    assert REFUSED[name] in str(refused.value)
