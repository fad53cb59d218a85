"""Rules that refuse a guest whatever the appraisal policy says.

This module decides. `RegoAppraisalPolicy` applies every rule here to every guest, also to
one that the policy accepts, and one reason of these rules is a refusal:

* `unordered`: a minimum is not a number, so that no comparison with it is sound.
* `unverified_devices`: the guest has devices that nobody verified, unless the policy names them.
* `not_pinned`: a list of reference values is missing or empty, where the operator requires them.
* `nothing_pinned`: no measurement is pinned at all, for a TEE that the operator has not named.

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
"""Rule of a policy that lists the kinds of devices which it accepts unverified."""

Claims = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Pinning:
    """What the operator requires of the reference data, whatever the policy says.

    Attributes:
        pinned_only: TEEs whose guests are refused while no measurement is pinned.
        require_reference_values: a list that is missing or empty refuses, where otherwise
            it means any value (for the TCB status, its default).
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
    """Refuse for each list that is missing or empty, for `require_reference_values`."""
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
    """Refuse every guest of a TEE without a usable reference value for any measurement.

    There is a reason for each measurement, so that this refusal alone does not prevent a pin
    of the refused guest.
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
    """Whether a list has a value that a guest could measure: marks of ended sets are none."""
    values = reference.get(name)
    return isinstance(values, list) and any(map(tee.claims[name].form.accepts, values))


def unordered(tee: Tee, claims: Claims, reference: Reference) -> tuple[Reason, ...]:
    """Refuse where a minimum, measured or expected, is not a number.

    Rego orders values of different types by their types: `"1" >= 2` would be true. A packaged
    policy requires numbers itself; the original's does not.
    """
    return tuple(
        Reason(
            name,
            show(claims.get(name)),
            show(reference.get(name)),
            f"{name}: {what}",
            kind=ReasonKind.POLICY,
        )
        for name in compared(tee, MatchRule.AT_LEAST)
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
    claim, accepted = claims.get(DEVICES, []), document.get(ACCEPTED_DEVICES)
    devices = claim if isinstance(claim, list) else [claim]
    named = list(accepted) if isinstance(accepted, list | dict) else []
    left = [show(device) for device in devices if device not in named]
    if not left:
        return ()
    kinds = ", ".join(left)
    text = (
        f"{DEVICES}: there is no verifier for {kinds}, "
        f"and the policy does not name it in {ACCEPTED_DEVICES}"
    )
    return (Reason(DEVICES, kinds, "", text, kind=ReasonKind.POLICY),)


def show(value: JsonValue) -> str:
    """Return a value as an operator reads it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def compared(tee: Tee, how: MatchRule) -> tuple[str, ...]:
    """Return the names of a TEE's claims that are compared with reference data in that way."""
    return tuple(name for name, claim in tee.claims.items() if claim.match is how)
