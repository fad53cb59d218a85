"""The sentences that answer the operator's question about one guest: why, and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.comparing import Comparison, nearest
from verdictd_py.console.language import Language

MEASUREMENT: Final = "measurement"
TCB: Final = "tcb"
ATTRIBUTES: Final = "attributes"

_NO_VALUES: Final = ("what the policy accepts", "")


@dataclass(frozen=True, slots=True)
class State:
    """Verdict as a page displays it.

    Attributes:
        kind: class of its colour and icon: `ok`, `bad`, `off`, `warn`.
        name: its name in English, a key of the translations.
        value: its name in URLs.
    """

    kind: str
    name: str
    value: str


ACCEPTED: Final = State("ok", "Accepted", "accepted")
REFUSED: Final = State("bad", "Refused", "refused")
NOT_VERIFIED: Final = State("off", "Not verified", "unverified")
NOT_APPRAISED: Final = State("warn", "Not appraised", "not-appraised")
STATES: Final = (ACCEPTED, REFUSED, NOT_VERIFIED, NOT_APPRAISED)


def state(guest: v1.Guest) -> State:
    """Return the verdict about a guest."""
    if not guest.judged:
        return NOT_APPRAISED
    return {v1.VERDICT_ACCEPTED: ACCEPTED, v1.VERDICT_REFUSED: REFUSED}.get(
        guest.verdict, NOT_VERIFIED
    )


def accepted_values(reason: v1.Reason) -> tuple[str, ...]:
    """Return the values that would have passed at the time, as far as the record has them."""
    if reason.expected in _NO_VALUES:
        return ()
    values = reason.expected.split(", ")
    return tuple(value for value in values if value and not value.startswith("and "))


def comparison(reason: v1.Reason) -> Comparison | None:
    """Return the comparison of a measurement with the most similar accepted value."""
    if reason.kind != MEASUREMENT or not reason.measured:
        return None
    return nearest(reason.measured, accepted_values(reason))


def headline(guest: v1.Guest, say: Language) -> str:
    """Return why a guest was accepted or refused, as one sentence without values."""
    if state(guest) is ACCEPTED:
        return say("The guest is accepted.")
    return why(guest.reasons, say)


def why(reasons: Sequence[v1.Reason], say: Language) -> str:
    """Return the reasons of a refusal as one sentence."""
    measured = [reason for reason in reasons if reason.kind == MEASUREMENT]
    others = [reason for reason in reasons if reason.kind != MEASUREMENT]
    if others:
        first = _other(others[0], say)
        more = len(others) - 1 + len(measured)
        if not more:
            return first
        return say("%(first)s (and %(more)d more reasons)", first=first, more=more)
    if not measured:
        return say("The broker recorded no reason.")
    return _measurements(measured, say)


def _measurements(reasons: Sequence[v1.Reason], say: Language) -> str:
    compared = {reason.rule: comparison(reason) for reason in reasons}
    close = {n: each.differing for n, each in compared.items() if each and each.mistyped}
    new = [name for name in compared if name not in close]
    texts = []
    if len(new) == 1:
        texts.append(say("%(name)s is not a reference value.", name=new[0]))
    elif new:
        texts.append(say("%(names)s are not reference values.", names=_listed(new, say)))
    for name, digits in close.items():
        if digits == 1:
            texts.append(say("%(name)s differs from an accepted value in one digit.", name=name))
            continue
        texts.append(
            say(
                "%(name)s differs from an accepted value in %(number)d digits.",
                name=name,
                number=digits,
            )
        )
    return " ".join(texts)


def _other(reason: v1.Reason, say: Language) -> str:
    if reason.kind == ATTRIBUTES and reason.rule == "debug":
        return say("The guest runs in debug mode: its host can read its memory.")
    if reason.kind == TCB and reason.measured:
        return say(
            "The vendor rates the platform %(status)s, which is not accepted.",
            status=reason.measured,
        )
    if reason.rule == "debug" and reason.measured == "true":
        return say("The guest runs in debug mode: its host can read its memory.")
    return reason.text or reason.rule


def _listed(names: Sequence[str], say: Language) -> str:
    if len(names) == 1:
        return names[0]
    return say("%(first)s and %(last)s", first=", ".join(names[:-1]), last=names[-1])


def remedy(guest: v1.Guest, say: Language) -> str:
    """Return what to do about a guest, as one or two sentences."""
    own = state(guest)
    if own is ACCEPTED:
        return say("It may request what the release policy allows.")
    if own is NOT_APPRAISED:
        return say("This is not a verdict: the guest tries again. Fix the cause on the broker.")
    if not guest.not_pinnable:
        return say(
            "Everything else passed: the evidence is genuine. Pin the values if you released this "
            "software; otherwise do nothing, and the guest stays refused."
        )
    kinds = {reason.kind for reason in guest.reasons}
    if "binding" in kinds:
        return say("The evidence belongs to another connection: check what sent it.")
    if own is NOT_VERIFIED:
        return say("Nothing that this client sent is proved. Check what runs at its address.")
    return _without_pin(guest, kinds, say)


def _without_pin(guest: v1.Guest, kinds: set[str], say: Language) -> str:
    if TCB in kinds:
        return say("Update the firmware of the host, or accept the status in the reference data.")
    return say("Pinning does not help: %(reason)s.", reason=guest.not_pinnable)
