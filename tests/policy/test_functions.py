"""Functions that a policy may call, in every spelling of a call."""

from __future__ import annotations

import pytest

from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy

HEAD = "package policy\nimport rego.v1\n"

ATTACKS = [
    "allow if opa.runtime()",
    "allow if opa.runtime().env.PATH",
    'allow if opa["runtime"]()',
    "allow if opa[`runtime`]()",
    'allow if opa["\\u0072untime"]()',
    "allow if opa . runtime()",
    "allow if opa.\nruntime()",
    "allow if opa.runtime(\n)",
    "allow if opa.runtime # (\n()",
    "allow := opa.runtime().env",
    "default allow := false\nallow if { x := opa.runtime(); x }",
    "allow if { some x in [opa.runtime()]; x }",
    "allow if count([1 | opa.runtime()]) == 1",
    "allow if count({x | x := opa.runtime()}) == 1",
    'allow if {"a": opa.runtime()}.a',
    "allow if { every x in [1] { opa.runtime() } }",
    "allow if not opa.runtime()",
    "allow if { opa.runtime() with input as {} }",
    "allow if f with f as opa.runtime\nf := 1",
    "g() := 1\nallow if g() with g as opa.runtime",
    "allow if g(1) == 1 with g as rand.intn\ng(x) := 1",
    'g(x, y) := 1\nallow if g("a", 3) >= 0 with g as rand.intn',
    'allow if count("x") >= 0 with count as time.now_ns',
    "allow if helper\nhelper if inner\ninner := opa.runtime()",
    "allow := true\nreasons contains opa.runtime().env.PATH",
    "allow := true\nother := opa.runtime()",
    "allow := true if { true } else := opa.runtime()",
    "opa := {}\nallow if data.policy.opa.runtime()",
    "f(x) := y if y := opa.runtime()\nallow if f(1)",
    'allow if rand.intn("a", 5) >= 0',
    "allow if time.now_ns() > 0",
    "allow if time.clock([time.now_ns()])",
    'allow if http.send({"method": "get", "url": "http://127.0.0.1:9"})',
    'allow if net.lookup_ip_addr("localhost")',
    'allow if uuid.rfc4122("a")',
    'allow if io.jwt.decode("a.b.c")',
    "allow if rego.metadata.rule()",
    "allow if rego.metadata.chain()",
    'allow if print("leak")',
    'allow if trace("leak")',
    "allow if providers.aws.sign_req({}, {}, 1)",
    "import data.policy as opa\nallow if opa.runtime()",
    "import opa.runtime as harmless\nallow if harmless()",
    "import input as opa\nallow if opa.runtime()",
    "allow if { f := opa.runtime; f() }",
    "allow if data.policy[input.name](1)\nf(x) := opa.runtime()",
    "allow if opa\u200b.runtime()",
    "allow if \uff4fpa.runtime()",
]


@pytest.mark.parametrize("rules", ATTACKS)
def test_no_spelling_of_a_forbidden_call_compiles(rules: str) -> None:
    with pytest.raises(PolicyInvalid):
        CompiledPolicy.compile(HEAD + rules, "{}")


@pytest.mark.parametrize("body", [a.removeprefix("allow if ") for a in ATTACKS if "\n" not in a])
def test_no_forbidden_call_compiles_in_the_older_syntax(body: str) -> None:
    if body.startswith(("allow", "default")):
        body = "opa.runtime()"
    with pytest.raises(PolicyInvalid):
        CompiledPolicy.compile(f"package policy\nallow {{ {body} }}", "{}")


def test_the_message_names_the_called_function() -> None:
    said = (
        r"opa\.runtime \(absent on purpose: .* environment\) in line 3, "
        r"rand\.intn \(absent on purpose: .* randomness\) in line 4"
    )
    with pytest.raises(PolicyInvalid, match=said):
        CompiledPolicy.compile(HEAD + 'allow if opa.runtime()\nx := rand.intn("a", 2)', "{}")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ('glob.match("[!a]", ["."], "")', r"glob\.match \(not available yet\)"),
        ('json.remove({"a": 1}, [["a", "b"]])', r"json\.remove \(not available yet\)"),
        ('json.filter({"a": "x"}, ["a/b"])', r"json\.filter \(not available yet\)"),
        ('yaml.unmarshal("a: 1")', r"yaml\.unmarshal \(not available yet\)"),
        ('io.jwt.decode("a.b.c")', r"io\.jwt\.decode \(not available yet\)"),
        ("{ glob.match(`*`, [], input.x, m); m }", r"glob\.match \(not available yet\)"),
        ("plus(1, 2) == 3", r"plus \(not available: write the operator\)"),
        ("strings.frobnicate(1)", r"strings\.frobnicate \(unknown\)"),
    ],
)
def test_a_function_that_is_not_available_is_named(call: str, said: str) -> None:
    """The engine's `glob.match`, `json.filter` and `json.remove` give other answers than OPA."""
    with pytest.raises(PolicyInvalid, match=said):
        CompiledPolicy.compile(HEAD + f"allow if {call}", "{}")


def test_a_function_that_replaces_another_must_be_the_policys_own() -> None:
    """The engine looks for the replacement among the functions of the policy only."""
    said = r"line 3, column 10: `with` cannot replace by count: write"
    with pytest.raises(PolicyInvalid, match=said):
        CompiledPolicy.compile(HEAD + "allow if f([1]) with f as count\nf(x) := 1", "{}")


@pytest.mark.parametrize(
    "rules",
    [
        'allow if input.text == "opa.runtime()"',
        "allow if input.opa.runtime == 1",
        "allow if input.x in data.values",
        "# opa.runtime()\nallow := true",
        "allow if { every x in input.list { is_string(x) } }",
        "f(x) := x + 1\nallow if f(1) == 2",
        "runtime(x) := x\nallow if runtime(true)",
        'allow if time.parse_rfc3339_ns(input.x) > time.parse_rfc3339_ns("2024-01-01T00:00:00Z")',
        "allow if regex.match(`^[0-9a-f]+$`, input.x)",
        'allow if sprintf("%s", [input.x]) == "a"',
        "allow if bits.and(input.n, 1) == 0",
        "allow if f(2) with f as g\nf(x) := false\ng(x) := x == 2",
        'allow if object.get(input, ["a", "b"], 1) == 1',
        "allow if input.n - 1 == 2 * 3 / 1 % 7",
    ],
)
def test_a_function_of_its_arguments_alone_compiles(rules: str) -> None:
    CompiledPolicy.compile(HEAD + rules, '{"values": []}')


def test_reference_data_cannot_name_a_function_to_call() -> None:
    with pytest.raises(PolicyInvalid, match="the policy's package"):
        CompiledPolicy.compile(
            HEAD + "allow if data.policy[input.f]\nf := 1\ndocument := data.names[input.f]",
            '{"names": {"f": "opa.runtime", "opa": {"runtime": "opa.runtime"}}}',
        )
