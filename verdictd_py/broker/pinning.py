"""Pinning: computes which reference values a guest's measurements would add. It stores nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.names import Name
from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.errors import ReasonKind, RequestError


@dataclass(frozen=True, slots=True)
class PinChange:
    """Effect of pinning on one list of reference values.

    Attributes:
        accepted: the values that are accepted now, including those of the named sets in force;
            if there are none, any value is accepted.
        added: the measured value; empty if it is accepted already.
    """

    field: str
    accepted: tuple[str, ...]
    added: str


@dataclass(frozen=True, slots=True)
class PinPreview:
    """Changes that pinning a guest makes to reference data, for an operator to confirm.

    Attributes:
        name: name of the reference data.
        revision: revision of the data before the change; a pin of another revision is refused.
    """

    judgement: Judgement
    name: Name
    changes: tuple[PinChange, ...]
    revision: str


def add_values(reference: ReferenceData, changes: Sequence[PinChange]) -> ReferenceData:
    """Return stored reference data with the values that these changes add.

    Raises:
        RequestError: the changes add no value, or a stored value is not a list of texts.
    """
    added = {change.field: change.added for change in changes if change.added}
    if not added:
        raise RequestError("every one of these measurements is accepted already")
    lists: dict[str, JsonValue] = {
        field: [*_texts(reference, field), value] for field, value in added.items()
    }
    return ReferenceData.of({**reference.values, **lists})


def compute_changes(
    judgement: Judgement, reference: ReferenceData, fields: Sequence[str]
) -> tuple[PinChange, ...]:
    """Return the effect of pinning this guest on each list.

    Args:
        reference: the reference data in force: stored data with the named sets in force.
        fields: measurements to pin. If there are none: those for which the guest was refused,
            or those that are not pinned yet if it was accepted.

    Raises:
        RequestError: a field is not a measurement of this guest (`reportData` never is), or its
            stored value is not a list of texts.
    """
    chosen = tuple(dict.fromkeys(fields)) or _default_fields(judgement, reference)
    return tuple(_change(judgement, reference, field) for field in chosen)


def _default_fields(judgement: Judgement, reference: ReferenceData) -> tuple[str, ...]:
    if judgement.verdict is Verdict.ACCEPTED:
        return reference.unpinned(judgement.measurements)
    refused = {reason.rule for reason in judgement.reasons if reason.kind is ReasonKind.MEASUREMENT}
    return tuple(name for name in judgement.measurements if name in refused)


def _change(judgement: Judgement, reference: ReferenceData, field: str) -> PinChange:
    known = judgement.measurements
    measured = judgement.claims.get(field)
    if field not in known or not isinstance(measured, str):
        raise RequestError(
            f"{quoted(field)} cannot be pinned from this guest; choose one of {', '.join(known)}"
        )
    accepted = _texts(reference, field)
    return PinChange(field, accepted, "" if measured in accepted else measured)


def _texts(reference: ReferenceData, field: str) -> tuple[str, ...]:
    values = reference.values.get(field, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise RequestError(f"{field} in the reference data is not a list of texts; fix it first")
    return tuple(str(value) for value in values)
