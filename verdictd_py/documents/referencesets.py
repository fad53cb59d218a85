"""Named sets of reference values: who added them, when, from which evidence, until when.

They stand beside the reference data of a TEE. What decides is the union: each
list of the data with the values of every set that is in force.
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
"""Sets of one TEE, retired ones among them."""

_MAX_CONTAINERS: Final = 64 * MAX_SETS
"""Objects and arrays of the whole document. A set has two and one more for each measurement."""

_MEMBERS: Final = frozenset(
    {"values", "addedBy", "addedAt", "evidence", "appraisal", "expiresAt", "retiredAt"}
)

Sets = dict[str, "ReferenceSet"]


@dataclass(frozen=True, slots=True)
class ReferenceSet:
    """Values that were added together.

    Attributes:
        values: accepted values by measurement.
        added_by: the caller, as in the audit trail.
        evidence: SHA-256 of the quote that they were measured by; empty for values by hand.
        appraisal: its id, empty likewise.
        expires_at, retired_at: from then on it accepts nothing; None for never.
    """

    values: Mapping[str, tuple[str, ...]]
    added_by: str
    added_at: datetime
    evidence: str = ""
    appraisal: str = ""
    expires_at: datetime | None = None
    retired_at: datetime | None = None

    def state(self, now: datetime) -> str:
        """`in force`, `expired` or `retired`."""
        if self.retired_at is not None and self.retired_at <= now:
            return "retired"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return "in force"

    @classmethod
    def from_json(cls, members: JsonValue) -> Self:
        """Raises ValueError where it has not the form of `as_json`."""
        if not isinstance(members, dict) or not set(members) <= _MEMBERS:
            raise ValueError("a set is an object with known members")
        values = members.get("values")
        if not isinstance(values, dict):
            raise ValueError("a set has an object `values`")
        found: dict[str, tuple[str, ...]] = {}
        for name, accepted in values.items():
            if not isinstance(accepted, list) or not accepted:
                raise ValueError(f"{quoted(name)} is no list with values")
            found[name] = tuple(str(value) for value in accepted)
        added_at = _moment(members.get("addedAt"))
        if added_at is None:
            raise ValueError("a set says when it was added")
        return cls(
            found,
            str(members.get("addedBy", "")),
            added_at,
            str(members.get("evidence", "")),
            str(members.get("appraisal", "")),
            _moment(members.get("expiresAt")),
            _moment(members.get("retiredAt")),
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


def _moment(text: JsonValue) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(str(text))
    if moment.tzinfo is None:
        raise ValueError("a time has a time zone")
    return moment


def parse(text: str) -> dict[str, Sets]:
    """Every set, by TEE and name.

    Raises:
        RequestError: it is something else; one line.
    """
    found: dict[str, Sets] = {}
    try:
        members = decode_object(
            text.encode(),
            str(DOCUMENT),
            max_containers=_MAX_CONTAINERS,
            max_values=16 * _MAX_CONTAINERS,
        )
        for tee, sets in members.items():
            if not isinstance(sets, dict) or len(sets) > MAX_SETS:
                raise ValueError(f"{quoted(tee)} is no object of at most {MAX_SETS} sets")
            found[str(Name.parse(tee))] = {
                str(Name.parse(name)): ReferenceSet.from_json(made) for name, made in sets.items()
            }
    except ValueError as error:
        raise RequestError(f"{DOCUMENT} cannot be used: {error}") from None
    return found


def written(sets: Mapping[str, Mapping[str, ReferenceSet]]) -> str:
    """The text that `parse` reads."""
    members = {
        tee: {name: each.as_json() for name, each in of_tee.items()} for tee, of_tee in sets.items()
    }
    return json.dumps(members, indent=2) + "\n"


def union(
    reference: Mapping[str, JsonValue], sets: Mapping[str, ReferenceSet], now: datetime
) -> dict[str, JsonValue]:
    """Reference data with the values of every set that is in force.

    A list that is empty accepts any value, so the end of a set must never empty one: a
    set that is not in force leaves its name and state in its lists, which match nothing and
    tell an operator why.
    """
    found: dict[str, JsonValue] = dict(reference)
    for name, each in sets.items():
        state = each.state(now)
        for field, accepted in each.values.items():
            values = found.get(field, [])
            if not isinstance(values, list):
                continue  # such a list matches nothing, and says so
            added = accepted if state == "in force" else (f"({name} is {state})",)
            found[field] = [*values, *(value for value in added if value not in values)]
    return found


def checked_values(
    claims: Mapping[str, Claim], values: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the values of a new set, each once.

    Args:
        claims: those of the TEE. Only its measurements can be in a set.

    Raises:
        RequestError: a name is not a measurement, or a value does not have its form.
    """
    known = [name for name, claim in claims.items() if claim.measurement]
    if not values:
        raise RequestError("a set without values accepts nothing; give some")
    for name, accepted in values.items():
        if name not in known:
            suggestion = closest(name, known)
            remedy = f"choose among {', '.join(known)}"
            if suggestion is not None:
                remedy = f"did you mean {suggestion}?"
            raise RequestError(f"{quoted(name)} is no measurement; {remedy}")
        form = claims[name].form
        for value in accepted:
            if not form.accepts(value):
                raise RequestError(f"{name}: {quoted(value)} is not {form.description}")
    return {name: tuple(dict.fromkeys(accepted)) for name, accepted in values.items()}


def with_set(sets: Mapping[str, Sets], tee: str, name: str, made: ReferenceSet) -> dict[str, Sets]:
    """Return the sets with a new one.

    Raises:
        RequestError: the name is none of one segment, or there are `MAX_SETS` already.
        AlreadyExists: there is a set of that name.
    """
    if len(Name.parse(name).segments) != 1:
        raise RequestError("a set has a name of one segment")
    of_tee = sets.get(tee, {})
    if name in of_tee:
        raise AlreadyExists(f"there is a set {name} already; choose another name")
    if len(of_tee) >= MAX_SETS:
        raise RequestError(f"there are {MAX_SETS} sets already")
    return {**sets, tee: {**of_tee, name: made}}


def with_retired(sets: Mapping[str, Sets], tee: str, name: str, now: datetime) -> dict[str, Sets]:
    """Return the sets with one that accepts nothing from `now` on.

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
        RequestError: it is in force.
    """
    of_tee = sets.get(tee, {})
    if name not in of_tee:
        raise NotFound(f"there is no set {quoted(name)}")
    if of_tee[name].state(now) == "in force":
        raise RequestError(
            f"the set {name} is in force; retire it first (verdict-py reference retire {name})"
        )
    return {**sets, tee: {other: made for other, made in of_tee.items() if other != name}}


def retired(made: ReferenceSet, now: datetime) -> ReferenceSet:
    """Return the set as retired, at `now` unless it was retired before."""
    return replace(made, retired_at=made.retired_at or now)


def expiry(text: str, now: datetime) -> datetime | None:
    """Return when a set expires, None for the empty text: never.

    Raises:
        RequestError: the text is no time of RFC 3339 with a time zone, or not after `now`.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None or moment <= now:
        raise RequestError(f"{quoted(text)} is no time to come; write 2027-11-24T12:00:00Z")
    return moment
