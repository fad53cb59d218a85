"""Named sets of reference values, each with its author, time, evidence and expiry.

They supplement the reference data of a TEE. Guests are appraised by the union: each list of the
data with the values of every set that is in force.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Self

from verdictd_py.documents.schema import closest
from verdictd_py.domain.claims import Claim
from verdictd_py.domain.names import REFERENCE_SETS, Name
from verdictd_py.encoding import JsonValue, decode_object, quoted
from verdictd_py.errors import AlreadyExists, NotFound, RequestError

DOCUMENT: Final = REFERENCE_SETS

MAX_SETS: Final = 1000
"""Maximum number of sets of one TEE, including retired ones."""

_MAX_CONTAINERS: Final = 64 * MAX_SETS
"""Maximum number of objects and arrays in the document.

A set has two, and one more for each measurement.
"""

_MEMBERS: Final = frozenset(
    {"values", "addedBy", "addedAt", "evidence", "appraisal", "expiresAt", "retiredAt"}
)

Sets = dict[str, "ReferenceSet"]


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """Set of reference values that were added together.

    Attributes:
        values: accepted values by measurement.
        added_by: name of the caller, as in the audit trail.
        evidence: SHA-256 of the quote that the values come from; empty for values given by hand.
        appraisal: id of the appraisal of this quote; empty for values given by hand.
        expires_at, retired_at: time from which the set accepts nothing; None for never.
    """

    values: Mapping[str, tuple[str, ...]]
    added_by: str
    added_at: datetime
    evidence: str = ""
    appraisal: str = ""
    expires_at: datetime | None = None
    retired_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """Return `in force`, `expired` or `retired`."""
        if self.retired_at is not None and self.retired_at <= now:
            return "retired"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "in force"

    @classmethod
    def from_json(cls, members: JsonValue) -> Self:
        """Read a set from the JSON object that `as_json` returns.

        Raises:
            ValueError: the object has another form.
        """
        if not isinstance(members, dict) or not set(members) <= _MEMBERS:
            raise ValueError("a set must be an object with known members")
        lists = members.get("values")
        if not isinstance(lists, dict):
            raise ValueError("a set must have an object `values`")
        values: dict[str, tuple[str, ...]] = {}
        for name, accepted in lists.items():
            if not isinstance(accepted, list) or not accepted:
                raise ValueError(f"{quoted(name)} must be a list with values")
            values[name] = tuple(str(value) for value in accepted)
        added_at = _time(members.get("addedAt"))
        if added_at is None:
            raise ValueError("a set must have the time `addedAt`")
        return cls(
            values,
            str(members.get("addedBy", "")),
            added_at,
            str(members.get("evidence", "")),
            str(members.get("appraisal", "")),
            _time(members.get("expiresAt")),
            _time(members.get("retiredAt")),
        )

    def as_json(self) -> dict[str, JsonValue]:
        return {
            "values": {name: list(accepted) for name, accepted in self.values.items()},
            "addedBy": self.added_by,
            "addedAt": self.added_at.isoformat(),
            "evidence": self.evidence,
            "appraisal": self.appraisal,
            "expiresAt": None if self.expires_at is None else self.expires_at.isoformat(),
            "retiredAt": None if self.retired_at is None else self.retired_at.isoformat(),
        }


def _time(text: JsonValue) -> datetime | None:
    if text is None:
        return None
    time = datetime.fromisoformat(str(text))
    if time.tzinfo is None:
        raise ValueError("a time must have a time zone")
    return time


def parse(text: str) -> dict[str, Sets]:
    """Return the sets in a document, by TEE and name.

    Raises:
        RequestError: the document has another form.
    """
    by_tee: dict[str, Sets] = {}
    try:
        members = decode_object(
            text.encode(),
            str(DOCUMENT),
            max_containers=_MAX_CONTAINERS,
            max_values=16 * _MAX_CONTAINERS,
        )
        for tee, sets in members.items():
            if not isinstance(sets, dict) or len(sets) > MAX_SETS:
                raise ValueError(f"{quoted(tee)} must be an object of at most {MAX_SETS} sets")
            by_tee[str(Name.parse(tee))] = {
                str(Name.parse(name)): ReferenceSet.from_json(item) for name, item in sets.items()
            }
    except ValueError as error:
        raise RequestError(f"{DOCUMENT} cannot be used: {error}") from None
    return by_tee


def serialize(sets: Mapping[str, Mapping[str, ReferenceSet]]) -> str:
    """Return the text that `parse` reads."""
    members = {
        tee: {name: item.as_json() for name, item in of_tee.items()} for tee, of_tee in sets.items()
    }
    return json.dumps(members, indent=2) + "\n"


def union(
    reference: Mapping[str, JsonValue], sets: Mapping[str, ReferenceSet], now: datetime
) -> dict[str, JsonValue]:
    """Return the reference data with the values of every set that is in force.

    An empty list accepts any value, so a set that expires must never leave a list empty. A set
    that is not in force therefore adds its name and state to its lists: this text matches no
    value and explains the refusal.
    """
    lists: dict[str, JsonValue] = dict(reference)
    combined: dict[str, dict[str, None]] = {}
    for name, item in sets.items():
        state = item.state(now)
        for field, accepted in item.values.items():
            values = lists.get(field, [])
            if not isinstance(values, list):
                continue  # the policy matches nothing with it, and reports that
            added = accepted if state == "in force" else (f"({name} is {state})",)
            combined.setdefault(field, {}).update(dict.fromkeys(added))
    for field, additions in combined.items():
        values = lists.get(field, [])
        if isinstance(values, list):
            present = {value for value in values if isinstance(value, str)}
            lists[field] = [*values, *(value for value in additions if value not in present)]
    return lists


def checked_values(
    claims: Mapping[str, Claim], values: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Check the values of a new set and return them without duplicates.

    Args:
        claims: claims of the TEE. Only its measurements can be in a set.

    Raises:
        RequestError: a name is not a measurement, or a value does not have its form.
    """
    known = [name for name, claim in claims.items() if claim.measurement]
    if not values:
        raise RequestError("a set without values accepts nothing; give values")
    for name, accepted in values.items():
        if name not in known:
            suggestion = closest(name, known)
            remedy = f"choose one of {', '.join(known)}"
            if suggestion is not None:
                remedy = f"did you mean {suggestion}?"
            raise RequestError(f"{quoted(name)} is not a measurement; {remedy}")
        form = claims[name].form
        for value in accepted:
            if not form.accepts(value):
                raise RequestError(f"{name}: {quoted(value)} is not {form.description}")
    return {name: tuple(dict.fromkeys(accepted)) for name, accepted in values.items()}


def with_set(sets: Mapping[str, Sets], tee: str, name: str, added: ReferenceSet) -> dict[str, Sets]:
    """Return the sets with a new one.

    Raises:
        RequestError: the name does not have one segment, or there are `MAX_SETS` sets already.
        AlreadyExists: a set has that name.
    """
    if len(Name.parse(name).segments) != 1:
        raise RequestError("the name of a set must have one segment")
    of_tee = sets.get(tee, {})
    if name in of_tee:
        raise AlreadyExists(f"the set {name} exists already; choose another name")
    if len(of_tee) >= MAX_SETS:
        raise RequestError(
            f"{tee} has {MAX_SETS} sets already; delete a retired one (verdict-py reference delete)"
        )
    return {**sets, tee: {**of_tee, name: added}}


def with_retired(sets: Mapping[str, Sets], tee: str, name: str, now: datetime) -> dict[str, Sets]:
    """Return the sets after retiring one of them: it accepts nothing from `now` on.

    Raises:
        NotFound: there is no set of that name.
    """
    of_tee = sets.get(tee, {})
    if name not in of_tee:
        raise NotFound(f"there is no set {quoted(name)}")
    return {**sets, tee: {**of_tee, name: retired(of_tee[name], now)}}


def without(sets: Mapping[str, Sets], tee: str, name: str, now: datetime) -> dict[str, Sets]:
    """Return the sets without one that is no longer in force.

    Raises:
        NotFound: there is no set of that name.
        RequestError: the set is in force.
    """
    of_tee = sets.get(tee, {})
    if name not in of_tee:
        raise NotFound(f"there is no set {quoted(name)}")
    if of_tee[name].state(now) == "in force":
        raise RequestError(
            f"the set {name} is in force; retire it first (verdict-py reference retire {name})"
        )
    return {**sets, tee: {other: item for other, item in of_tee.items() if other != name}}


def retired(item: ReferenceSet, now: datetime) -> ReferenceSet:
    """Return the set as retired, at `now` unless it was retired before."""
    return replace(item, retired_at=item.retired_at or now)


def expiry(text: str, now: datetime) -> datetime | None:
    """Return the time at which a set expires, None for the empty text: never.

    Raises:
        RequestError: the text is not a time of RFC 3339 with a time zone, or not after `now`.
    """
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.tzinfo is None or time <= now:
        raise RequestError(f"{quoted(text)} is not a future time; write 2027-11-24T12:00:00Z")
    return time
