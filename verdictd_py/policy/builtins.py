"""Which functions a policy may call, judged on what the engine compiled, not on the text.

Rego can spell one call in many ways (`opa.runtime()`, `opa["runtime"]()`, `with f as
opa.runtime`), so a reader of the text would have to be a second compiler. The plan that
the engine is going to run has one spelling only: a call statement with the full name.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from regopy import Bundle, rego_shared

from verdictd_py.errors import PolicyInvalid

_ARITHMETIC: Final = "abs and ceil div equal floor gt gte lt lte minus mul neq or plus rem round"
_AGGREGATES: Final = "count max min product sort sum intersection union"
_TYPES: Final = (
    "is_array is_boolean is_null is_number is_object is_set is_string to_number type_name walk"
)
_STRINGS: Final = (
    "concat contains endswith format_int indexof indexof_n lower replace split sprintf startswith "
    "strings.any_prefix_match strings.any_suffix_match strings.count strings.replace_n "
    "strings.reverse substring trim trim_left trim_prefix trim_right trim_space trim_suffix upper"
)
_COLLECTIONS: Final = (
    "array.concat array.flatten array.reverse array.slice json.filter json.remove object.filter "
    "object.get object.keys object.remove object.subset object.union object.union_n"
)
_ENCODINGS: Final = (
    "base64.decode base64.encode base64.is_valid base64url.decode base64url.encode "
    "base64url.encode_no_pad hex.decode hex.encode json.is_valid json.marshal json.unmarshal"
)
_OTHERS: Final = (
    "bits.and bits.negate bits.or bits.rsh bits.xor crypto.sha256 glob.match "
    "regex.find_n regex.is_valid regex.match regex.replace regex.split "
    "semver.compare semver.is_valid "
    "time.add_date time.parse_duration_ns time.parse_rfc3339_ns"
)
_KEYWORDS: Final = "internal.member_2 internal.member_3 internal.template_string"

ALLOWED: Final = frozenset(
    " ".join(
        (_ARITHMETIC, _AGGREGATES, _TYPES, _STRINGS, _COLLECTIONS, _ENCODINGS, _OTHERS, _KEYWORDS)
    ).split()
)
"""Functions of their arguments alone: no environment, network, clock or chance, no output.

`numbers.range` and `bits.lsh` are left out because they turn a small argument into a large
value; `print` because the engine writes it to standard output. `_KEYWORDS` are what the
engine makes of `in` and of template strings.
"""

VERDICT: Final = "g0.data.policy.allow"
"""The engine's name for the rule `allow` of `package policy`."""

_MAX_TYPE_NAME_BYTES: Final = 128
"""Names of node types are below 40 bytes (rego-cpp, `include/rego/rego.hh`)."""


@dataclass(frozen=True, slots=True)
class PlanNames:
    """Names in a compiled plan: functions that it calls, and rules that it defines."""

    called: frozenset[str]
    defined: frozenset[str]


def names_in(bundle: Bundle) -> PlanNames:
    """Every function called and every rule defined in what the engine will run.

    Raises:
        PolicyInvalid: the plan has a kind of call that is unknown here.
    """
    called: set[str] = set()
    defined: set[str] = set()
    root = rego_shared.rego_bundle_node(
        bundle._impl  # noqa: SLF001  # the wrapper's own Node cannot show a plan
    )
    waiting = [child for child in _children(root) if _type_name(child) != "rego-data"]
    while waiting:
        node = waiting.pop()
        match _type_name(node):
            case "rego-callstmt":
                called.add(_first_text(node))
            case "rego-builtinfunction":
                called.add(_first_text(node))
                continue  # below it is documentation
            case "rego-function":
                defined.add(_first_text(node))
            case "rego-calldynamicstmt":
                pass  # finds rules of the policy only, each of which is in this plan
            case name if "call" in name:
                raise PolicyInvalid(f"the plan has a statement that is unknown here: {name}")
        waiting.extend(_children(node))
    return PlanNames(frozenset(called), frozenset(defined))


def check(names: PlanNames) -> None:
    """Returns if the plan defines `allow` and calls nothing that is not allowed.

    Raises:
        PolicyInvalid: otherwise; the message names the functions.
    """
    if VERDICT not in names.defined:
        raise PolicyInvalid("the policy has no rule `allow` in `package policy`")
    strange = sorted(names.called - names.defined - ALLOWED)
    if strange:
        raise PolicyInvalid(f"the policy calls what it may not, or what is not there: {strange}")


def _children(node: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    for index in range(rego_shared.rego_node_size(node)):
        yield rego_shared.rego_node_get(node, index)


def _first_text(node: ctypes.c_void_p) -> str:
    return str(rego_shared.rego_node_value(rego_shared.rego_node_get(node, 0)))


def _type_name(node: ctypes.c_void_p) -> str:
    """The type of a node. The wrapper's function for it (1.5.2) forgets room for the NUL."""
    buffer = ctypes.create_string_buffer(_MAX_TYPE_NAME_BYTES)
    if rego_shared.rego.regoNodeTypeName(node, buffer, len(buffer)) != rego_shared.Code.OK:
        raise PolicyInvalid("the engine does not tell the type of a statement")
    return buffer.value.decode("ascii", "replace")
