"""Explanations of a refusal: claims next to reference data, rule by rule, with whole values.

Nothing here decides. It runs after a policy refused, and compares claims and data as the
packaged policies do; a policy explains its further rules in its own `reasons`. The rules that
refuse under every policy are in `floor`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from verdictd_py.documents.reference import Reference
from verdictd_py.domain.evidence import Tee, measurements
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason
from verdictd_py.policy.floor import MINIMA, REVOKED, is_number, show

DEFAULT_TCB: Final = ("UpToDate", "SWHardeningNeeded")
"""What passes where `tcbStatus` is not pinned (tdx.md); the packaged policies say the same."""

MAX_OWN_REASONS: Final = 64
"""A policy's own reasons that are reported; each is a line in the log."""

MAX_OWN_CHARS: Final = 4096
"""Length of each text in them, and of a claim in any reason; twelve measurements of 96 digits
with names fit."""

_ADVISORIES: Final = "advisoryIds"
"""The one claim that is a list: each of its values must be among the accepted."""


def differences(
    tee: Tee, claims: Mapping[str, JsonValue], reference: Reference
) -> tuple[Reason, ...]:
    """Return a reason for every claim that does not match: debug, TCB, lists, SGX's minima."""
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
    done = {"debug", "tcbStatus", *measurements(tee), *MINIMA}
    for name in sorted(reference.keys() & claims.keys() - done):
        yield from _pinned(name, claims, reference[name])
    if sgx:
        yield from _below(claims, reference)


def _in_grace(claims: Mapping[str, JsonValue], reference: Reference) -> bool:
    """Tell whether a grace of `tcbGraceDays` covers the status, as in the packaged policy."""
    graces, status = reference.get("tcbGraceDays"), claims.get("tcbStatus")
    behind = claims.get("tcbBehindDays")
    if not isinstance(graces, dict) or not isinstance(status, str) or status == REVOKED:
        return False
    days = graces.get(status)
    if not is_number(days) or not is_number(behind):
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
    for name in MINIMA:
        measured, least = claims.get(name), reference.get(name)
        if not is_number(least):
            text = f"{name}: the reference data has no number of this name"
            yield Reason(name, _measured(name, claims), show(least), text)
        elif not is_number(measured) or measured < least:  # type: ignore[operator]  # numbers
            yield _mismatch(name, claims, f"at least {show(least)}")


def own_reasons(document: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
    """Return the policy's own `reasons`: text, or objects with a `text`.

    Accepts one of them, a list or set of them, and the object that a partial set of Rego v0
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


def _measured(name: str, claims: Mapping[str, JsonValue]) -> str:
    """Return the value of a claim as text, cut where a guest could make it arbitrarily long."""
    return show(claims[name])[:MAX_OWN_CHARS] if name in claims else ""


def _mismatch(name: str, claims: Mapping[str, JsonValue], expected: str) -> Reason:
    measured = _measured(name, claims)
    said = f"measured {measured}" if name in claims else "not measured"
    return Reason(
        name, measured, expected.removeprefix("one of "), f"{name}: {said}, expected {expected}"
    )
