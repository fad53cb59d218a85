"""Revisions of stored content, for changes by compare-and-swap."""

from __future__ import annotations

import hashlib
from enum import Enum
from typing import Final, Literal


class Expectation(Enum):
    """Expectation of a writer that has not read a revision."""

    ABSENT = "absent"
    ANY = "any"


ABSENT: Final = Expectation.ABSENT
"""Nothing of that name is stored: the writer creates it."""

ANY: Final = Expectation.ANY
"""The writer replaces any content, for example with a whole new policy."""

Expected = str | Literal[Expectation.ABSENT, Expectation.ANY]
"""A revision, `ABSENT` or `ANY`."""


def revision_of(content: bytes) -> str:
    """Return the revision of some content: its SHA-256 in lower-case hex.

    Therefore a file that is edited by hand has a new revision, without any bookkeeping. Content
    that changes from A to B and back to A has its first revision again (the "ABA problem").
    This is harmless here: a change is computed and checked only from the contents whose
    revisions it names, so a change that is correct for the first A is correct for the second.
    """
    return hashlib.sha256(content).hexdigest()


def has_revision(content: bytes | None, expected: Expected) -> bool:
    """Return whether stored content has the expected revision; None if nothing is stored."""
    if expected is ANY:
        return True
    if content is None or expected is ABSENT:
        return content is None and expected is ABSENT
    return revision_of(content) == expected
