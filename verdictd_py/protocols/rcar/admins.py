"""Who may administer over HTTP: tokens that configured keys signed.

Nobody by default. A token of a key that is configured may do what the operator says of this
key, and what the token's `role` says is taken only where the key may give that role.

Source: wire-rcar.md, "Administration".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from verdictd_py.domain.callers import Caller, Right
from verdictd_py.errors import NotAuthorized, TokenInvalid, TokenOutOfTime
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.tokens import ISSUER


class Role(StrEnum):
    """What a token may do.

    `register` is that of coco_keyprovider: new keys below a prefix, nothing else.
    `operator` sets and deletes resources; `admin` also policies and reference values, which
    is the right to release everything.
    """

    REGISTER = "register"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class AdminKey:
    """One configured key.

    Attributes:
        name: for log and audit.
        key: checks tokens.
        roles: that a token of this key may have by its claim `role`.
        default_role: of tokens without that claim; None refuses them.
        prefix: below which resources may be touched; empty for everywhere.
    """

    name: str
    key: jose.PublicKey = field(repr=False)
    roles: frozenset[Role]
    default_role: Role | None = None
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Administrator:
    """Whoever showed a good token.

    Attributes:
        caller: for the use cases; its right to manage is bounded by what follows.
    """

    caller: Caller
    role: Role
    prefix: str

    def require_policies(self) -> Caller:
        """The caller, if it may read and change policies and reference values.

        Raises:
            NotAuthorized: it may not.
        """
        if self.role is not Role.ADMIN or self.prefix:
            raise NotAuthorized(
                f"{self.caller.name} may not change policies; that needs the role admin of a key "
                "without prefix"
            )
        return self.caller

    def require_resource(self, path: str, *, deleting: bool = False) -> Caller:
        """The caller, if it may set (or delete) this resource.

        Raises:
            NotAuthorized: it may not.
        """
        if deleting and self.role is Role.REGISTER:
            raise NotAuthorized(f"{self.caller.name} may only register keys, not delete {path}")
        if not path.startswith(self.prefix):
            raise NotAuthorized(
                f"{self.caller.name} may only touch resources below {self.prefix}, not {path}"
            )
        return self.caller


@dataclass(frozen=True, slots=True)
class AdminKeys:
    """Every configured key; none refuses everybody."""

    keys: tuple[AdminKey, ...] = ()

    def administrator(self, token: str | None, *, now: datetime) -> Administrator:
        """Return the administrator that `token` proves.

        Raises:
            NotAuthorized: administration is off, or the token has no role that its key may give.
            TokenInvalid: there is no token, no configured key signed it, or it has expired.
        """
        if not self.keys:
            raise NotAuthorized(
                "administration over HTTP is off; the broker's operator turns it on with "
                "--kbs-admins"
            )
        if token is None:
            raise TokenInvalid("administration needs Authorization: Bearer and a token")
        refusals: list[TokenInvalid] = []
        for key in self.keys:
            try:
                claims = jose.verified(token, key.key, now=now, leeway=jose.LEEWAY_SECONDS)
            except TokenOutOfTime:
                raise  # this key signed it, so no other key did
            except TokenInvalid as error:
                refusals.append(error)
                continue
            if claims.get("iss") == ISSUER:
                # The operator's mistake: without a role, every guest would have the default one.
                raise NotAuthorized(
                    f"a guest's token administers nothing; {key.name} needs a key of its own"
                )
            return _administrator(key, claims.get("role"))
        raise refusals[0]


def token(key: jose.PrivateKey, *, role: Role | None, now: datetime, lifetime: timedelta) -> str:
    """Return a new token for brokers that know the public half of `key`.

    Args:
        role: None for the key's `default_role`.
        lifetime: in whole seconds; a fraction is dropped.
    """
    begins = int(now.timestamp())
    claims = {"iat": begins, "exp": begins + int(lifetime.total_seconds())}
    return jose.signed(claims if role is None else {**claims, "role": role.value}, {}, key)


def _administrator(key: AdminKey, said: object) -> Administrator:
    role = key.default_role if said is None else _ROLES.get(str(said))
    if role is None or (said is not None and role not in key.roles):
        raise NotAuthorized(f"tokens of {key.name} may not have the role that this one has")
    return Administrator(Caller(f"kbs admin {key.name}", _RIGHTS), role, key.prefix)


_ROLES: Final = {role.value: role for role in Role}
_RIGHTS: Final = frozenset({Right.MANAGE})
