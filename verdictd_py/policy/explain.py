"""Why a policy refused: claims beside reference data, rule by rule, with whole values.

Nothing here decides. It is asked after a policy refused, and looks at claims and data as
the packaged policies do; what else a policy wants, the policy says in its own `reasons`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from verdictd_py.domain.evidence import DEVICES, Tee, measurements
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason
from verdictd_py.policy.reference import Reference

DEFAULT_TCB: Final = ("UpToDate", "SWHardeningNeeded")
"""What passes where `tcbStatus` is not pinned (tdx.md); the packaged policies say the same."""

REVOKED: Final = "Revoked"

MAX_OWN_REASONS: Final = 64
"""Reasons of a policy's own that are shown; each is a line in the log."""

MAX_OWN_CHARS: Final = 4096
"""Length of each text in them, and of a claim in any reason; twelve measurements of 96 digits
with names fit."""

ACCEPTED_DEVICES: Final = "accept_unverified_devices"
"""What a policy may say beside `allow`."""

_ADVISORIES: Final = "advisoryIds"
"""The one claim that is a list: each of its values must be among the accepted."""

_MINIMA: Final = ("productId", "svn")
"""SGX: the measured number is at least the one in the data."""


def differences(
    tee: Tee, claims: Mapping[str, JsonValue], reference: Reference
) -> tuple[Reason, ...]:
    """Every claim that does not fit: debug, TCB, pinned lists, then minima of SGX."""
    return tuple(_differences(tee, claims, reference))


def _differences(
    tee: Tee, claims: Mapping[str, JsonValue], reference: Reference
) -> Iterator[Reason]:
    sgx = tee is Tee.SGX
    if claims.get("debug") is not False and ("debug" in claims or not sgx):
        yield _mismatch("debug", claims, "false")
    pinned_tcb = reference.get("tcbStatus", [])
    accepted: JsonValue = list(DEFAULT_TCB) if pinned_tcb == [] else pinned_tcb
    if ("tcbStatus" in claims or not sgx) and (sgx or not _in_grace(claims, reference)):
        yield from _pinned("tcbStatus", claims, accepted)
    for name in measurements(tee):
        if sgx and name not in reference:
            yield Reason(name, "", "", f"{name}: the reference data has no list of this name")
        yield from _pinned(name, claims, reference.get(name, []))
    done = {"debug", "tcbStatus", *measurements(tee), *_MINIMA}
    for name in sorted(reference.keys() & claims.keys() - done):
        yield from _pinned(name, claims, reference[name])
    if sgx:
        yield from _below(claims, reference)


def _in_grace(claims: Mapping[str, JsonValue], reference: Reference) -> bool:
    """Whether `tcbGraceDays` names the status, and it is not over, as in the packaged policy."""
    graces, status = reference.get("tcbGraceDays"), claims.get("tcbStatus")
    behind = claims.get("tcbBehindDays")
    if not isinstance(graces, dict) or not isinstance(status, str) or status == REVOKED:
        return False
    days = graces.get(status)
    if not _is_number(days) or not _is_number(behind):
        return False
    return behind <= days  # type: ignore[operator]  # numbers


def _pinned(name: str, claims: Mapping[str, JsonValue], values: JsonValue) -> Iterator[Reason]:
    if not isinstance(values, list):
        text = f"{name}: the reference value {show(values)} is not a list, nothing matches it"
        yield Reason(name, _measured(name, claims), show(values), text)
        return
    measured = claims.get(name)
    if not values or (isinstance(measured, str) and measured in values):
        return
    listed = measured if name == _ADVISORIES else None
    if isinstance(listed, list) and all(each in values for each in listed):
        return
    yield _mismatch(name, claims, "one of " + ", ".join(show(value) for value in values))


def _below(claims: Mapping[str, JsonValue], reference: Reference) -> Iterator[Reason]:
    for name in _MINIMA:
        measured, least = claims.get(name), reference.get(name)
        if not _is_number(least):
            text = f"{name}: the reference data has no number of this name"
            yield Reason(name, _measured(name, claims), show(least), text)
        elif not _is_number(measured) or measured < least:  # type: ignore[operator]  # numbers
            yield _mismatch(name, claims, f"at least {show(least)}")


def not_pinned(tee: Tee, reference: Reference) -> tuple[Reason, ...]:
    """A reason for each list that is missing or empty, for `require_reference_values`."""
    return tuple(
        Reason(name, "", "", f"{name}: no reference values, and reference values are required")
        for name in (*measurements(tee), "tcbStatus")
        if not reference.get(name, [])
    )


def revoked(claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
    """A reason where Intel revoked the platform's TCB: refused whatever a policy says."""
    if claims.get("tcbStatus") != REVOKED:
        return ()
    text = f"tcbStatus: measured {REVOKED}, which no policy can accept"
    return (Reason("tcbStatus", REVOKED, "a TCB that is not revoked", text),)


def unordered(
    tee: Tee, claims: Mapping[str, JsonValue], reference: Reference
) -> tuple[Reason, ...]:
    """A reason where one of SGX's minima, measured or expected, is no number.

    Rego orders values of different types by their types: `"3" >= 2` is true. The packaged
    policy requires numbers itself; the original's does not.
    """
    if tee is not Tee.SGX:
        return ()
    return tuple(
        Reason(name, show(claims.get(name)), show(reference.get(name)), f"{name}: {what}")
        for name in _MINIMA
        for side, what in (
            (reference, "the reference value is no number, nothing matches it"),
            (claims, "what was measured is no number"),
        )
        if name in side and not _is_number(side[name])
    )


def unverified_devices(
    claims: Mapping[str, JsonValue], document: Mapping[str, JsonValue]
) -> tuple[Reason, ...]:
    """A reason where there are further devices that nobody verified and the policy does not name.

    A policy says so in `accept_unverified_devices`, a list or set of their kinds.
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


def own_reasons(document: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
    """What the policy itself says in `reasons`: text, or objects with a `text`.

    Takes one of them, a list or set of them, and the object that a partial set of Rego v0
    becomes (each text is a name in it).
    """
    said = document.get("reasons")
    if isinstance(said, dict) and "text" not in said:
        said = list(said)
    items = said if isinstance(said, list) else [said]
    return tuple(_own(item) for item in items[:MAX_OWN_REASONS] if isinstance(item, str | dict))


def _own(item: str | dict[str, JsonValue]) -> Reason:
    if isinstance(item, str):
        return Reason("policy", "", "", item[:MAX_OWN_CHARS])
    rule = show(item.get("rule", "policy"))
    parts = {name: show(item[name]) if name in item else "" for name in ("measured", "expected")}
    text = show(item["text"]) if "text" in item else show(item)
    return Reason(
        rule[:MAX_OWN_CHARS],
        parts["measured"][:MAX_OWN_CHARS],
        parts["expected"][:MAX_OWN_CHARS],
        text[:MAX_OWN_CHARS],
    )


def show(value: JsonValue) -> str:
    """A value as an operator reads it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _measured(name: str, claims: Mapping[str, JsonValue]) -> str:
    """The whole value of a measurement; of what a guest may make as long as it likes, a part."""
    return show(claims[name])[:MAX_OWN_CHARS] if name in claims else ""


def _mismatch(name: str, claims: Mapping[str, JsonValue], expected: str) -> Reason:
    measured = _measured(name, claims)
    said = f"measured {measured}" if name in claims else "not measured"
    return Reason(
        name, measured, expected.removeprefix("one of "), f"{name}: {said}, expected {expected}"
    )


def _is_number(value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
