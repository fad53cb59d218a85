"""The page of one guest: measured against expected, failed rules, claims, pinning, earlier ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.comparing import Comparison, short
from verdictd_py.console.language import Language
from verdictd_py.console.views import sentences
from verdictd_py.console.views.guests import claims_of, digests
from verdictd_py.console.views.sentences import MEASUREMENT, State
from verdictd_py.domain.claims import TCB_BEHIND
from verdictd_py.encoding import JsonValue

MAX_EARLIER: Final = 20
"""Earlier appraisals that the page lists."""

_NO_DETAILS: Final[Mapping[str, Any]] = dict.fromkeys(
    ("eventLog", "chain", "tcb", "since", "evidenceOf")
)


@dataclass(frozen=True, slots=True)
class Expectations:
    """Reference values of a TEE as they are now.

    Attributes:
        deciding: accepted values by claim.
        unpinned: measurements for which any value is accepted.
        stored: values in the reference data itself.
        sets: the named sets.
        meanings: meaning of each claim.
        document: name of the reference data.
    """

    deciding: Mapping[str, Sequence[str]]
    unpinned: tuple[str, ...]
    stored: Mapping[str, Sequence[str]]
    sets: tuple[v1.ReferenceSet, ...]
    meanings: Mapping[str, str]
    document: str

    @classmethod
    def of(
        cls,
        reference: v1.Reference | None,
        sets: Sequence[v1.ReferenceSet],
        meanings: Mapping[str, str],
    ) -> Expectations:
        """Read them from the answers of the management API; None if there are none."""
        if reference is None:
            return cls({}, (), {}, (), meanings, "")
        return cls(
            _lists(reference.deciding),
            tuple(reference.unpinned),
            _lists(reference.content),
            tuple(sets),
            meanings,
            reference.name,
        )

    def origins(self, claim: str, value: str) -> tuple[str, ...]:
        """Return where a value is accepted from: the reference data, or the names of sets."""
        own = (self.document,) if value in self.stored.get(claim, ()) else ()
        return own + tuple(
            each.name
            for each in self.sets
            if any(a.field == claim and value in a.values for a in each.values)
        )

    def is_accepted(self, claim: str, value: str) -> bool:
        """Return whether a value is accepted now."""
        return claim in self.unpinned or value in self.deciding.get(claim, ())


@dataclass(frozen=True, slots=True)
class Step:
    """A measurement that was refused.

    Attributes:
        comparison: with the most similar accepted value; None if no value was accepted.
        origins: where that value is accepted from.
        others: further accepted values with their origins.
        accepted_now: whether the measured value is accepted since.
    """

    name: str
    meaning: str
    measured: str
    comparison: Comparison | None
    origins: tuple[str, ...]
    others: tuple[tuple[str, tuple[str, ...]], ...]
    accepted_now: bool


@dataclass(frozen=True, slots=True)
class ClaimRow:
    """A claim that passed, or that no rule is about.

    Attributes:
        value: its value as text.
        zeros: whether it is a digest of zeros only; `value` then has its length.
        kind: class of the result's pill: `ok`, `care`, `bad`, or empty for no result.
        result: what accepts it.
    """

    name: str
    meaning: str
    value: str
    zeros: bool
    kind: str
    result: str


@dataclass(frozen=True, slots=True)
class PinRow:
    """A change of the reference values that pinning would make."""

    name: str
    accepted: tuple[tuple[str, tuple[str, ...]], ...]
    added: str


@dataclass(frozen=True, slots=True)
class Pin:
    """The preview of pinning.

    Attributes:
        choices: measurements to choose from: name, meaning, whether it is chosen, its remark.
        revision: revision of the reference data.
        command: the same change on the command line.
        others: number of further guests that were refused with these values.
    """

    choices: tuple[tuple[str, str, bool, str], ...]
    rows: tuple[PinRow, ...]
    added: int
    document: str
    revision: str
    command: str
    set_name: str
    expires: str
    others: int
    mistyped: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GuestPage:
    """Everything about one guest."""

    guest: v1.Guest
    state: State
    title: str
    remedy: str
    steps: tuple[Step, ...]
    claims: tuple[ClaimRow, ...]
    passed: int
    behind: tuple[str, ...]
    pin: Pin | None
    earlier: tuple[tuple[v1.Guest, State, str], ...]
    same: int
    accepted_now: bool
    details: Mapping[str, Any]

    @property
    def refused(self) -> frozenset[str]:
        """Names of the measurements that were refused."""
        return frozenset(step.name for step in self.steps)


def guest_page(
    guest: v1.Guest,
    expected: Expectations,
    others: Sequence[v1.Guest],
    preview: v1.PinnedValues | None,
    say: Language,
    *,
    set_name: str = "",
    expires: str = "",
) -> GuestPage:
    """Return the page.

    Args:
        others: all guests that the broker remembers.
        preview: what pinning would change; None if it is not possible.
        set_name, expires: what the operator has written into the form.
    """
    steps = tuple(_step(reason, expected) for reason in guest.reasons if reason.kind == MEASUREMENT)
    claims = tuple(_claim_rows(guest, expected, {step.name for step in steps}, say))
    pin = None
    if preview is not None:
        pin = _pin(guest, preview, expected, others, steps, set_name=set_name, expires=expires)
    refused = sentences.state(guest) is not sentences.ACCEPTED
    return GuestPage(
        guest=guest,
        state=sentences.state(guest),
        title=_title(guest, expected, say),
        remedy=sentences.remedy(guest, say),
        steps=steps,
        claims=claims,
        passed=sum(row.kind != "bad" for row in claims),
        behind=_texts(claims_of(guest).get(TCB_BEHIND)),
        pin=pin,
        earlier=tuple(_earlier(guest, others)),
        same=0 if pin is None else pin.others,
        accepted_now=refused
        and bool(steps)
        and all(step.accepted_now for step in steps)
        and not guest.not_pinnable,
        details={**_NO_DETAILS, **(json.loads(guest.details) if guest.details else {})},
    )


def _title(guest: v1.Guest, expected: Expectations, say: Language) -> str:
    if sentences.state(guest) is not sentences.ACCEPTED:
        return sentences.headline(guest, say)
    unpinned = [name for name in expected.unpinned if name in guest.measurements]
    if unpinned:
        return say(
            "The guest is accepted, but any value is accepted for %(names)s.",
            names=", ".join(unpinned),
        )
    return say("The guest is accepted: every measurement is a reference value.")


def _step(reason: v1.Reason, expected: Expectations) -> Step:
    compared = sentences.comparison(reason)
    accepted = sentences.accepted_values(reason)
    nearest = "" if compared is None else compared.expected
    return Step(
        name=reason.rule,
        meaning=expected.meanings.get(reason.rule, ""),
        measured=reason.measured,
        comparison=compared,
        origins=expected.origins(reason.rule, nearest) if nearest else (),
        others=tuple((v, expected.origins(reason.rule, v)) for v in accepted if v != nearest),
        accepted_now=expected.is_accepted(reason.rule, reason.measured),
    )


def _claim_rows(
    guest: v1.Guest, expected: Expectations, refused: set[str], say: Language
) -> list[ClaimRow]:
    failed = {reason.rule for reason in guest.reasons}
    rows = []
    for name, value in claims_of(guest).items():
        if name in refused:
            continue
        text, zeros = _value(value)
        kind, result = _result(name, value, guest, expected, say)
        if name in failed:
            kind, result = "bad", say("refused")
        rows.append(ClaimRow(name, expected.meanings.get(name, ""), text, zeros, kind, result))
    order = {name: index for index, name in enumerate(guest.measurements)}
    return sorted(rows, key=lambda row: order.get(row.name, len(order)))


def _result(
    name: str, value: JsonValue, guest: v1.Guest, expected: Expectations, say: Language
) -> tuple[str, str]:
    origins = expected.origins(name, value) if isinstance(value, str) else ()
    if origins:
        return "ok", origins[0]
    if name in guest.measurements:
        if name in expected.unpinned:
            return "care", "UNPINNED"
        if sentences.state(guest) is sentences.ACCEPTED:
            return "care", say("no longer a reference value")
    return "", ""


def _value(value: JsonValue) -> tuple[str, bool]:
    """Return a claim as text, and whether it is a long digest of zeros."""
    if not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False), False
    zeros = len(value) >= 32 and set(value) == {"0"}
    return (str(len(value)) if zeros else value), zeros


def _pin(
    guest: v1.Guest,
    preview: v1.PinnedValues,
    expected: Expectations,
    others: Sequence[v1.Guest],
    steps: Sequence[Step],
    *,
    set_name: str,
    expires: str,
) -> Pin:
    rows = tuple(
        PinRow(
            change.field,
            tuple((value, expected.origins(change.field, value)) for value in change.accepted),
            change.added,
        )
        for change in preview.changes
    )
    chosen = [row.name for row in rows]
    names = dict.fromkeys((*chosen, *(name for name in expected.unpinned)))
    measured = digests(guest)
    choices = tuple(
        (
            name,
            expected.meanings.get(name, ""),
            name in chosen,
            "unpinned" if name in expected.unpinned else "",
        )
        for name in names
        if name in measured
    )
    fields = [row.name for row in rows if row.added]
    command = f"verdict-py reference pin --from {guest.id} --field {' '.join(fields or chosen)}"
    if set_name:
        command += f" --set {_quoted(set_name)}"
        command += f" --expires {_quoted(expires)}" if expires else ""
    refused = {step.name: step.measured for step in steps}
    return Pin(
        choices=choices,
        rows=rows,
        added=len(fields),
        document=preview.name,
        revision=preview.revision,
        command=command + " --yes",
        set_name=set_name,
        expires=expires,
        others=sum(_has(other, refused) for other in others if other.id != guest.id),
        mistyped=tuple(
            origin
            for step in steps
            if step.comparison is not None and step.comparison.mistyped
            for origin in step.origins
        ),
    )


def _has(guest: v1.Guest, refused: Mapping[str, str]) -> bool:
    """Return whether a guest was refused for exactly these measurements."""
    own = {r.rule: r.measured for r in guest.reasons if r.kind == MEASUREMENT}
    return bool(own) and own == dict(refused)


def _quoted(text: str) -> str:
    """Return a word for a POSIX shell."""
    safe = text and all(c.isascii() and (c.isalnum() or c in "._-:/+@") for c in text)
    return text if safe else "'" + text.replace("'", "'\\''") + "'"


def _earlier(guest: v1.Guest, others: Sequence[v1.Guest]) -> list[tuple[v1.Guest, State, str]]:
    """Return the appraisals of the same address and machine, the newest first."""
    host = guest.peer.rpartition(":")[0]
    own = [
        other
        for other in others
        if other.peer.rpartition(":")[0] == host and other.platform == guest.platform
    ]
    own.sort(key=lambda other: other.at, reverse=True)
    refused = [reason.rule for reason in guest.reasons if reason.kind == MEASUREMENT]
    found = []
    for other in own[:MAX_EARLIER]:
        measured = digests(other)
        name = next((name for name in refused if name in measured), "")
        text = f"{name} {short(measured[name])}" if name else ""
        found.append((other, sentences.state(other), text))
    return found


def _lists(text: str) -> dict[str, list[str]]:
    """Return the lists of texts in reference data."""
    values = json.loads(text) if text else {}
    if not isinstance(values, dict):
        return {}
    return {name: _list(value) for name, value in values.items()}


def _list(value: JsonValue) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _texts(value: JsonValue | None) -> tuple[str, ...]:
    return tuple(_list(value)) if value is not None else ()
