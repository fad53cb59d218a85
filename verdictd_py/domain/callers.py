"""Callers of the client API, and the rights of each role (wire-client-api.md)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verdictd_py.errors import NotAuthorized


class Right(StrEnum):
    """Permission of a caller. A caller with `UNWRAP` can obtain every key."""

    WRAP = "wrap"
    MANAGE = "manage"
    READ_KEYS = "read-keys"
    UNWRAP = "unwrap"


ROLES: Final = {
    "wrap": frozenset({Right.WRAP}),
    "operator": frozenset({Right.WRAP, Right.MANAGE}),
    "admin": frozenset(Right),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """A client of the management API.

    Attributes:
        name: name for log and audit: `uid 1000`, `certificate build-farm`.
        rights: everything that the caller is allowed to do.
    """

    name: str
    rights: frozenset[Right]

    def require(self, right: Right) -> None:
        """Require that this caller has `right`.

        Raises:
            NotAuthorized: the caller does not have it.
        """
        if right not in self.rights:
            raise NotAuthorized(
                f"{self.name} has no right to {right}; call as the daemon's user, through its "
                "unix socket, or with a certificate that has a role with this right"
            )
