"""Endorsements of connected guests, each of which is stored once."""

from __future__ import annotations


class SharedEndorsements:
    """Endorsements of all connected guests, each of which is stored once.

    They have some 20 KiB, and are equal for all guests on platforms of one type.
    """

    def __init__(self) -> None:
        self._users: dict[object, tuple[object, int]] = {}

    def shared(self, endorsements: object | None) -> object | None:
        """Return the stored endorsements that are equal to these, or store these."""
        if not _is_hashable(endorsements):
            return endorsements
        stored, users = self._users.get(endorsements, (endorsements, 0))
        self._users[stored] = stored, users + 1
        return stored

    def release(self, endorsements: object | None) -> None:
        """Remove endorsements that no guest uses any more."""
        if not _is_hashable(endorsements):
            return
        stored, users = self._users.pop(endorsements)
        if users > 1:
            self._users[stored] = stored, users - 1


def _is_hashable(endorsements: object | None) -> bool:
    """Return whether endorsements can be shared; their type is each TEE's own."""
    try:
        hash(endorsements)
    except TypeError:
        return False
    return endorsements is not None
