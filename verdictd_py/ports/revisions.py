"""Revisions of stored content, for changes that are made by compare-and-swap."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final, Literal


class Expectation(Enum):
    """What a writer expects where it knows no revision."""

    ABSENT = "absent"
    ANY = "any"


ABSENT: Final = Expectation.ABSENT
"""Nothing of that name is stored: the writer creates it."""

ANY: Final = Expectation.ANY
"""The writer replaces the content whatever it is, for example with a whole new policy."""

Expected = str | Literal[Expectation.ABSENT, Expectation.ANY]
"""A revision, `ABSENT` or `ANY`."""


def revision_of(content: bytes) -> str:
    """Return the revision of some content: its SHA-256 in lower-case hex.

    The digest makes a file that is edited by hand a new revision, without any bookkeeping
    beside the file. Content that changes from A to B and back to A has the first revision
    again (the "ABA problem"). That is harmless here: a change is computed and checked from
    nothing but the contents whose revisions it names, so what was right for the first A is
    right for the second.
    """
    return hashlib.sha256(content).hexdigest()


def meets(content: bytes | None, expected: Expected) -> bool:
    """Tell whether the stored content, None where there is none, is what a writer expects."""
    if expected is ANY:
        return True
    if content is None or expected is ABSENT:
        return content is None and expected is ABSENT
    return revision_of(content) == expected
