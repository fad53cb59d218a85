"""Explanations of a refusal: claims next to reference data, rule by rule, with whole values.

A long list of reference values is represented by its first values and their number: the history and
the log have a text for each refusal, and 10,000 values have a megabyte.

This module decides nothing; it explains a refusal afterwards. `differences` compares claims and
data as the packaged policies do, and applies to them alone. Any other policy is explained by its
result: the claims that it names in `mismatches`, and its own `reasons`. The rules that refuse under
every policy are in `floor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from verdictd_py.documents.reference import Reference
from verdictd_py.domain.claims import MatchRule, is_number
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason, ReasonKind
from verdictd_py.policy.floor import Claims, claims_matched_by, show
from verdictd_py.ports.tees import TcbStatus, Tee

MISMATCHES: Final = "mismatches"
"""Rule of a policy: set of the names of claims that do not match the reference data."""

MAX_OWN_REASONS: Final = 64
"""Limit of a policy's own reasons that are reported; each of them is a line in the log."""

UNNAMED: Final = "policy"
"""Rule of the reasons in which a policy names no rule. There may be several of them."""

MAX_OWN_CHARS: Final = 4096
"""Length limit of a policy's own texts, and of a claim in any reason.

Twelve measurements of 96 digits fit, with their names."""

MAX_LISTED: Final = 32
"""Number of values of a list that an explanation has."""


def differences(tee: Tee, claims: Claims, reference: Reference) -> tuple[Reason, ...]:
    """Return a reason for every claim that does not match the reference data.

    The order is: claims that must be false, TCB, measurements, other pinned lists, minima.
    """
    return tuple(_differences(tee, claims, reference))


def mismatches(
    tee: Tee, claims: Claims, reference: Reference, document: Mapping[str, JsonValue]
) -> tuple[Reason, ...]:
    """Return a reason for every claim that the policy itself names in `mismatches`.

    Args:
        document: everything that the policy defines for these claims.
    """
    named = document.get(MISMATCHES)
    names = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    return tuple(_named_mismatch(tee, name, claims, reference) for name in names[:MAX_OWN_REASONS])


def _named_mismatch(tee: Tee, name: str, claims: Claims, reference: Reference) -> Reason:
    """Return the measured value next to the reference value, which the policy may not compare."""
    for reason in _list_mismatches(tee, name, claims, reference.get(name, [])):
        return reason
    return _mismatch(tee, name[:MAX_OWN_CHARS], claims, "what the policy accepts")


def _differences(tee: Tee, claims: Claims, reference: Reference) -> Iterator[Reason]:
    for name in claims_matched_by(tee, MatchRule.ALWAYS_FALSE):
        if claims.get(name) is not False and (name in claims or not tee.claims[name].optional):
            yield _mismatch(tee, name, claims, "false")
    if tee.tcb is not None:
        yield from _tcb_mismatches(tee, tee.tcb, claims, reference)
    for name in tee.measurements:
        if tee.lists_required and name not in reference:
            text = f"{name}: the reference data has no list of this name"
            yield Reason(name, "", "", text, kind=tee.reason_kind(name))
        yield from _list_mismatches(tee, name, claims, reference.get(name, []))
    handled = {*claims_matched_by(tee, MatchRule.ALWAYS_FALSE), *tee.measurements}
    handled.update(
        claims_matched_by(tee, MatchRule.AT_LEAST), () if tee.tcb is None else (tee.tcb.claim,)
    )
    for name in sorted(reference.keys() & claims.keys() - handled):
        yield from _list_mismatches(tee, name, claims, reference[name])
    yield from _minimum_mismatches(tee, claims, reference)


def _tcb_mismatches(
    tee: Tee, tcb: TcbStatus, claims: Claims, reference: Reference
) -> Iterator[Reason]:
    claim = tee.claims.get(tcb.claim)
    absent = tcb.claim not in claims and claim is not None and claim.optional
    if absent or _in_grace(tcb, claims, reference):
        return
    pinned = reference.get(tcb.claim, [])
    accepted: JsonValue = list(tcb.accepted) if pinned == [] else pinned
    yield from _list_mismatches(tee, tcb.claim, claims, accepted)


def _in_grace(tcb: TcbStatus, claims: Claims, reference: Reference) -> bool:
    """Return whether the reference data grants the status a grace period that has not expired."""
    if tcb.grace is None:
        return False
    graces, behind = reference.get(tcb.grace[0]), claims.get(tcb.grace[1])
    status = claims.get(tcb.claim)
    if not isinstance(graces, dict) or not isinstance(status, str) or status in tcb.revoked:
        return False
    days = graces.get(status)
    if not is_number(days) or not is_number(behind):
        return False
    return behind <= days  # type: ignore[operator]  # numbers


def _list_mismatches(tee: Tee, name: str, claims: Claims, values: JsonValue) -> Iterator[Reason]:
    if not isinstance(values, list):
        shown = show(values)[:MAX_OWN_CHARS]
        text = f"{name}: the reference value {shown} is not a list; no claim can match it"
        yield Reason(name, _measured(name, claims), shown, text, kind=tee.reason_kind(name))
        return
    value = claims.get(name)
    if not values or (isinstance(value, str) and value in values):
        return
    claim = tee.claims.get(name)
    listed = value if claim is not None and claim.match is MatchRule.EACH_ONE_OF else None
    if isinstance(listed, list) and all(item in values for item in listed):
        return
    listed_values = ", ".join(show(value) for value in values[:MAX_LISTED])
    more = len(values) - MAX_LISTED
    expected = f"{listed_values}, and {more} more" if more > 0 else listed_values
    yield _mismatch(tee, name, claims, f"one of {expected}")


def _minimum_mismatches(tee: Tee, claims: Claims, reference: Reference) -> Iterator[Reason]:
    for name in claims_matched_by(tee, MatchRule.AT_LEAST):
        measured, least = claims.get(name), reference.get(name)
        if not is_number(least):
            text = f"{name}: the reference data has no number of this name"
            kind = tee.reason_kind(name)
            yield Reason(name, _measured(name, claims), show(least), text, kind=kind)
        elif not is_number(measured) or measured < least:  # type: ignore[operator]  # numbers
            yield _mismatch(tee, name, claims, f"at least {show(least)}")


def own_reasons(
    document: Mapping[str, JsonValue], kind_of: Callable[[str], ReasonKind] | None = None
) -> tuple[Reason, ...]:
    """Return the policy's own `reasons`: text, or objects with a `text`.

    `reasons` may be a single reason, or a list or set of them. A partial set of Rego v0 is an
    object here, whose names are the texts.

    Args:
        kind_of: returns the kind of a reason from the name of its rule; without it, the kind of
            every reason is `POLICY`.
    """
    stated = document.get("reasons")
    if isinstance(stated, dict) and "text" not in stated:
        stated = list(stated)
    items = stated if isinstance(stated, list) else [stated]
    reasons = (
        _own_reason(item) for item in items[:MAX_OWN_REASONS] if isinstance(item, str | dict)
    )
    if kind_of is None:
        return tuple(reasons)
    return tuple(replace(reason, kind=kind_of(reason.rule)) for reason in reasons)


def _own_reason(item: str | dict[str, JsonValue]) -> Reason:
    if isinstance(item, str):
        return Reason(UNNAMED, "", "", item[:MAX_OWN_CHARS], kind=ReasonKind.POLICY)
    rule = show(item.get("rule", UNNAMED))
    parts = {name: show(item[name]) if name in item else "" for name in ("measured", "expected")}
    text = show(item["text"]) if "text" in item else show(item)
    return Reason(
        rule[:MAX_OWN_CHARS],
        parts["measured"][:MAX_OWN_CHARS],
        parts["expected"][:MAX_OWN_CHARS],
        text[:MAX_OWN_CHARS],
        kind=ReasonKind.POLICY,
    )


def _measured(name: str, claims: Claims) -> str:
    """Return the value of a claim as text, with a limited length because the guest chooses it."""
    return show(claims[name])[:MAX_OWN_CHARS] if name in claims else ""


def _mismatch(tee: Tee, name: str, claims: Claims, expected: str) -> Reason:
    measured = _measured(name, claims)
    actual = f"measured {measured}" if name in claims else "not measured"
    text = f"{name}: {actual}, expected {expected}"
    values = expected.removeprefix("one of ")
    return Reason(name, measured, values, text, kind=tee.reason_kind(name))
