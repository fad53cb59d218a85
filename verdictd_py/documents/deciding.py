"""The reference data that decides about the guests of a TEE: stored data with its named sets.

There is one way to combine them, for guests and for the checks of changes: both documents are
checked first, because a name that nothing reads leaves open what it was meant to pin.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from verdictd_py.documents import referencesets
from verdictd_py.documents.datanames import data_names
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.documents.referencesets import Sets
from verdictd_py.documents.schema import ReferenceSchema, closest
from verdictd_py.domain.names import Name
from verdictd_py.encoding import quoted
from verdictd_py.errors import PolicyInvalid, RequestError


def combine(
    schema: ReferenceSchema,
    name: Name | str,
    reference: ReferenceData,
    sets: Sets,
    *,
    policy: str,
    now: datetime,
) -> ReferenceData:
    """Return reference data with the values of every set that is in force.

    Args:
        name: of the reference data, for messages.
        policy: text of the policy that decides with it: it may read names of its own.

    Raises:
        PolicyInvalid: a name or value does not fit; one line.
    """
    schema.require(str(name), reference.values, data_names(policy))
    require_sets(schema, sets)
    if not sets:
        return reference
    return ReferenceData.of(referencesets.union(reference.values, sets, now))


def require_sets(schema: ReferenceSchema, sets: Sets) -> None:
    """Refuse sets with a name that is no measurement, or a value of another form.

    Raises:
        PolicyInvalid: one line that names the set.
    """
    for name, made in sets.items():
        try:
            referencesets.checked_values(schema.claims, made.values)
        except RequestError as error:
            raise PolicyInvalid(f"{referencesets.DOCUMENT}: set {name}: {error}") from None


def require_known_tees(sets: Iterable[str], known: Iterable[str]) -> None:
    """Refuse sets under a name that is nearly that of a TEE: nothing would read them.

    A name that is similar to none may be that of a TEE whose package is not loaded now.

    Args:
        sets: names of TEEs in the document of named sets.
        known: TEEs that are known.

    Raises:
        RequestError: one line that names the right one.
    """
    names = tuple(known)
    for tee in sets:
        suggestion = None if tee in names else closest(tee, names)
        if suggestion is not None:
            raise RequestError(
                f"{referencesets.DOCUMENT}: there is no TEE {quoted(tee)}; "
                f"did you mean {suggestion}?"
            )
