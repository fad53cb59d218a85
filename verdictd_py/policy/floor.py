"""Rules that refuse a guest whatever the appraisal policy says.

This module decides. `RegoAppraisalPolicy` applies every rule here to every guest, also to
one that the policy accepts, and one reason of these rules is a refusal:

* `revoked`: Intel revoked the platform's TCB.
* `unordered`: one of SGX's minima is no number, so that no comparison of it is sound.
* `unverified_devices`: the guest has devices that nobody verified, unless the policy names them.
* `not_pinned`: a list of reference values is missing or empty, where the operator requires them.

The verifiers have a floor of their own, because it needs the quote rather than claims: debug
TDs and enclaves, reserved attributes, service TDs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from verdictd_py.documents.reference import Reference
from verdictd_py.domain.evidence import DEVICES, Tee, measurements
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason

REVOKED: Final = "Revoked"

ACCEPTED_DEVICES: Final = "accept_unverified_devices"
"""Rule of a policy that lists the kinds of devices which it accepts unverified."""

MINIMA: Final = ("productId", "svn")
"""SGX: the measured number is at least the one in the data."""


def not_pinned(tee: Tee, reference: Reference) -> tuple[Reason, ...]:
    """Refuse for each list that is missing or empty, for `require_reference_values`."""
    return tuple(
        Reason(name, "", "", f"{name}: no reference values, and reference values are required")
        for name in (*measurements(tee), "tcbStatus")
        if not reference.get(name, [])
    )


def revoked(claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
    """Refuse a platform whose TCB Intel revoked."""
    if claims.get("tcbStatus") != REVOKED:
        return ()
    text = f"tcbStatus: measured {REVOKED}, which no policy can accept"
    return (Reason("tcbStatus", REVOKED, "a TCB that is not revoked", text),)


def unordered(
    tee: Tee, claims: Mapping[str, JsonValue], reference: Reference
) -> tuple[Reason, ...]:
    """Refuse where one of SGX's minima, measured or expected, is no number.

    The engine (rego-cpp 1.5) orders values of different types by their text, where Rego has
    an order of types: `2 >= "3"` would be true. The packaged policy requires numbers itself;
    the original's does not.
    """
    if tee is not Tee.SGX:
        return ()
    return tuple(
        Reason(name, show(claims.get(name)), show(reference.get(name)), f"{name}: {what}")
        for name in MINIMA
        for side, what in (
            (reference, "the reference value is no number, nothing matches it"),
            (claims, "what was measured is no number"),
        )
        if name in side and not is_number(side[name])
    )


def unverified_devices(
    claims: Mapping[str, JsonValue], document: Mapping[str, JsonValue]
) -> tuple[Reason, ...]:
    """Refuse further devices that nobody verified and that the policy does not accept.

    A policy accepts them by kind, in a list or set `accept_unverified_devices`.

    Args:
        document: everything that the policy defines for these claims.
    """
    devices, accepted = claims.get(DEVICES, []), document.get(ACCEPTED_DEVICES)
    named = accepted if isinstance(accepted, list | dict) else ()
    left = (
        [show(each) for each in devices if each not in named] if isinstance(devices, list) else []
    )
    if not left:
        return ()
    kinds = ", ".join(left)
    text = (
        f"{DEVICES}: there is no verifier for {kinds}, "
        f"and the policy does not name it in {ACCEPTED_DEVICES}"
    )
    return (Reason(DEVICES, kinds, "", text),)


def show(value: JsonValue) -> str:
    """Return a value as an operator reads it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def is_number(value: JsonValue) -> bool:
    """Tell whether a JSON value is a number; Python's `bool` is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)
