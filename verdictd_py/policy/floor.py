"""Rules that refuse a guest whatever the appraisal policy says.

`RegoAppraisalPolicy` applies these rules to every guest, also to one that the policy accepts. A
single reason from them refuses the guest:

* `non_numeric_minima`: a minimum, or the claim compared with it, is not a number.
* `unverified_devices`: the guest has unverified devices that the policy does not name.
* `not_pinned`: a list of reference values is missing or empty, where the operator requires them.
* `nothing_pinned`: no measurement is pinned, for a TEE that the operator has not named.

A platform whose TCB the vendor revoked is refused as well (`Tee.revoked`), before a policy is
evaluated. The verifiers have a floor of their own, because it needs the quote rather than
claims: debug TDs and enclaves, reserved attributes, service TDs.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Final

from verdictd_py.documents.reference import Reference
from verdictd_py.domain.claims import MatchRule, is_number
from verdictd_py.domain.evidence import DEVICES
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason, ReasonKind
from verdictd_py.ports.tees import Tee

ACCEPTED_DEVICES: Final = "accept_unverified_devices"
"""Rule of a policy: list of the kinds of devices that it accepts without verification."""

Claims = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Pinning:
    """What the operator requires of the reference data, whatever the policy says.

    Attributes:
        pinned_only: TEEs whose guests are refused while no measurement is pinned.
        require_reference_values: whether a list that is missing or empty refuses. Otherwise it
            accepts any value (for the TCB status, the default values).
    """

    pinned_only: Container[str] = frozenset()
    require_reference_values: bool = False

    def unmet(self, tee: Tee, reference: Reference) -> tuple[Reason, ...]:
        """Return a reason for every requirement that the reference data does not meet."""
        reasons = nothing_pinned(tee, reference) if tee.name in self.pinned_only else ()
        if self.require_reference_values:
            reasons += not_pinned(tee, reference)
        return reasons


NO_REQUIREMENTS: Final = Pinning()


def not_pinned(tee: Tee, reference: Reference) -> tuple[Reason, ...]:
    """Return a reason for each list that is missing or empty (`require_reference_values`)."""
    tcb = () if tee.tcb is None else (tee.tcb.claim,)
    return tuple(
        Reason(
            name,
            "",
            "",
            f"{name}: no reference values, and reference values are required",
            kind=tee.reason_kind(name),
        )
        for name in (*tee.measurements, *tcb)
        if not reference.get(name, [])
    )


def nothing_pinned(tee: Tee, reference: Reference) -> tuple[Reason, ...]:
    """Return reasons to refuse if no measurement of a TEE has a usable reference value.

    There is a reason for each measurement, so that a guest that is refused for this alone can be
    pinned.
    """
    if any(_pins(tee, name, reference) for name in tee.measurements):
        return ()
    remedy = f"pin this guest (verdict-py reference pin) or start with --verifier {tee.name}"
    return tuple(
        Reason(
            name,
            "",
            "",
            f"{name}: no measurement of {tee.name} is pinned; {remedy}",
            kind=ReasonKind.MEASUREMENT,
        )
        for name in tee.measurements or (tee.name,)
    )


def _pins(tee: Tee, name: str, reference: Reference) -> bool:
    """Return whether a list has a possible measurement; the mark of an expired set is none."""
    values = reference.get(name)
    return isinstance(values, list) and any(map(tee.claims[name].form.accepts, values))


def non_numeric_minima(tee: Tee, claims: Claims, reference: Reference) -> tuple[Reason, ...]:
    """Return a reason for each minimum, measured or expected, that is not a number.

    Rego orders values of different types by type, so that `"1" >= 2` is true. The packaged
    policies require numbers; the original's policies do not.
    """
    return tuple(
        Reason(
            name,
            show(claims.get(name)),
            show(reference.get(name)),
            f"{name}: {what}",
            kind=ReasonKind.POLICY,
        )
        for name in claims_matched_by(tee, MatchRule.AT_LEAST)
        for side, what in (
            (reference, "the reference value is not a number; no claim can match it"),
            (claims, "the measured value is not a number"),
        )
        if name in side and not is_number(side[name])
    )


def unverified_devices(
    claims: Mapping[str, JsonValue], document: Mapping[str, JsonValue]
) -> tuple[Reason, ...]:
    """Return a reason if the guest has unverified devices that the policy does not accept.

    A policy accepts them by kind, in a list or set `accept_unverified_devices`.

    Args:
        document: everything that the policy defines for these claims.
    """
    claim, accepted = claims.get(DEVICES, []), document.get(ACCEPTED_DEVICES)
    devices = claim if isinstance(claim, list) else [claim]
    named = list(accepted) if isinstance(accepted, list | dict) else []
    refused = [show(device) for device in devices if device not in named]
    if not refused:
        return ()
    kinds = ", ".join(refused)
    text = (
        f"{DEVICES}: there is no verifier for {kinds}, "
        f"and the policy does not name it in {ACCEPTED_DEVICES}"
    )
    return (Reason(DEVICES, kinds, "", text, kind=ReasonKind.POLICY),)


def show(value: JsonValue) -> str:
    """Return a value for an operator: text unchanged, any other value as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def claims_matched_by(tee: Tee, how: MatchRule) -> tuple[str, ...]:
    """Return the names of a TEE's claims that are compared with reference data by a match rule."""
    return tuple(name for name, claim in tee.claims.items() if claim.match is how)
