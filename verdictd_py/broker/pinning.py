"""A guest's measurements as reference values: what would change, without doing it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from verdictd_py.broker.history import Judgement, Verdict
from verdictd_py.encoding import JsonValue, shown
from verdictd_py.errors import RequestError


@dataclass(frozen=True, slots=True)
class Change:
    """What pinning would do to one list.

    Attributes:
        accepted: the values in it now; none means that any value is accepted.
        added: the measured value; empty where it is accepted already.
    """

    field: str
    accepted: tuple[str, ...]
    added: str


def changes(
    judgement: Judgement, reference: Mapping[str, JsonValue], fields: Sequence[str]
) -> tuple[Change, ...]:
    """What pinning this guest does to each list.

    Args:
        fields: measurements; none for those that refused the guest, or of a guest that was
            accepted, those that are not pinned yet.

    Raises:
        RequestError: a field is no measurement of this guest, or its list is none. Never
            `reportData`: it is another one for every key.
    """
    chosen = tuple(dict.fromkeys(fields)) or _default_fields(judgement, reference)
    return tuple(_change(judgement, reference, each) for each in chosen)


def unpinned(measurements: Sequence[str], reference: Mapping[str, JsonValue]) -> tuple[str, ...]:
    """Return the measurements for which any value passes: their list is missing or empty."""
    return tuple(name for name in measurements if reference.get(name, []) == [])


def _default_fields(judgement: Judgement, reference: Mapping[str, JsonValue]) -> tuple[str, ...]:
    if judgement.verdict is Verdict.ACCEPTED:
        return unpinned(judgement.measurements, reference)
    refused = {reason.rule for reason in judgement.reasons}
    return tuple(name for name in judgement.measurements if name in refused)


def _change(judgement: Judgement, reference: Mapping[str, JsonValue], field: str) -> Change:
    known = judgement.measurements
    measured = judgement.claims.get(field)
    if field not in known or not isinstance(measured, str):
        raise RequestError(
            f"{shown(field)} cannot be pinned from this guest; choose among {', '.join(known)}"
        )
    values = reference.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RequestError(f"{field} in the reference data is no list of texts; mend it first")
    accepted = tuple(str(value) for value in values)
    return Change(field, accepted, "" if measured in accepted else measured)
