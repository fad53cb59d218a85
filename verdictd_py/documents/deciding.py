"""Reference data in force for the guests of a TEE: stored data combined with named sets.

Appraisals and checks of changes both use `combine`. It checks both documents first, because a
misspelled name would leave a measurement unpinned.
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
        name: name of the reference data, for messages.
        policy: text of the policy that uses the data: it may read further names.

    Raises:
        PolicyInvalid: a name or value does not fit the schema.
    """
    schema.require(str(name), reference.values, data_names(policy))
    require_sets(schema, sets)
    if not sets:
        return reference
    return ReferenceData.of(referencesets.union(reference.values, sets, now))


def require_sets(schema: ReferenceSchema, sets: Sets) -> None:
    """Refuse sets with a name that is not a measurement, or a value of another form.

    Raises:
        PolicyInvalid: a set is refused; the message names it.
    """
    for name, item in sets.items():
        try:
            referencesets.checked_values(schema.claims, item.values)
        except RequestError as error:
            raise PolicyInvalid(f"{referencesets.DOCUMENT}: set {name}: {error}") from None


def require_known_tees(sets: Iterable[str], known: Iterable[str]) -> None:
    """Refuse sets under a misspelled name of a TEE: nothing would read them.

    A name that is not similar to any may be the name of a TEE whose package is not loaded now.

    Args:
        sets: names of TEEs in the document of named sets.
        known: names of the known TEEs.

    Raises:
        RequestError: a name is misspelled; the message has the correct one.
    """
    names = tuple(known)
    for tee in sets:
        suggestion = None if tee in names else closest(tee, names)
        if suggestion is not None:
            raise RequestError(
                f"{referencesets.DOCUMENT}: there is no TEE {quoted(tee)}; "
                f"did you mean {suggestion}?"
            )
