"""Administrators over HTTP: clients whose token was signed by a configured key.

By default no key is configured. A token has the role in its claim `role` if the operator
allows that role for the key, otherwise it is refused.

Source: wire-rcar.md, "Administration".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from verdictd_py.domain.callers import Caller, Right
from verdictd_py.errors import NotAuthorized, TokenInvalid, TokenNotValidNow
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.tokens import ISSUER


class Role(StrEnum):
    """Role of an administrator.

    `register` creates keys below a prefix and nothing else, as coco_keyprovider needs.
    `operator` sets and deletes resources. `admin` also sets policies and reference values,
    which amounts to the right to release everything.
    """

    REGISTER = "register"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class AdminKey:
    """Configured key of an administrator.

    Attributes:
        name: name in log and audit trail.
        key: public key that verifies tokens.
        roles: roles that a token of this key may have in its claim `role`.
        default_role: role of tokens without that claim; None refuses them.
        prefix: prefix of the resources that may be changed; empty for all.
    """

    name: str
    key: jose.PublicKey = field(repr=False)
    roles: frozenset[Role]
    default_role: Role | None = None
    prefix: str = ""

    def lessened(self, new: AdminKey) -> AdminKey | None:
        """Return this key without the rights that `new` does not have; None if it has none."""
        if new.key != self.key:
            return None
        if new.prefix.startswith(self.prefix):
            prefix = new.prefix
        elif self.prefix.startswith(new.prefix):
            prefix = self.prefix
        else:
            return None
        default = None
        if self.default_role is not None and new.default_role is not None:
            default = min(self.default_role, new.default_role, key=_BY_RIGHTS.index)
        roles = self.roles & new.roles
        if not roles and default is None:
            return None
        return AdminKey(self.name, self.key, roles, default, prefix)


@dataclass(frozen=True, slots=True)
class Administrator:
    """Administrator that a valid token identifies.

    Attributes:
        caller: caller for the use cases; `role` and `prefix` limit its right to manage.
    """

    caller: Caller
    role: Role
    prefix: str

    def require_policies(self) -> Caller:
        """Return the caller if it may read and change policies and reference values.

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
        """Return the caller if it may set (or delete) this resource.

        Raises:
            NotAuthorized: it may not.
        """
        if deleting and self.role is Role.REGISTER:
            raise NotAuthorized(f"{self.caller.name} may only register keys, not delete {path}")
        if not path.startswith(self.prefix):
            raise NotAuthorized(
                f"{self.caller.name} may only change resources below {self.prefix}, not {path}"
            )
        return self.caller


@dataclass(frozen=True, slots=True)
class AdminKeys:
    """All configured keys; without any, every administrator is refused."""

    keys: tuple[AdminKey, ...] = ()

    def lessened(self, new: AdminKeys) -> AdminKeys:
        """Return these keys without the rights that the keys of the same name in `new` lack."""
        others = {key.name: key for key in new.keys}
        lessened = (key.lessened(others[key.name]) for key in self.keys if key.name in others)
        return AdminKeys(tuple(key for key in lessened if key is not None))

    def authenticate(self, token: str | None, *, now: datetime) -> Administrator:
        """Return the administrator that sent `token`.

        Raises:
            NotAuthorized: no key is configured, or the token's role is not allowed for its key.
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
                claims = jose.verify(token, key.key, now=now, leeway=jose.LEEWAY_SECONDS)
            except TokenNotValidNow:
                raise  # this key signed it, so no other key did
            except TokenInvalid as error:
                refusals.append(error)
                continue
            if claims.get("iss") == ISSUER:
                # A misconfiguration: every guest's token would have the default role.
                raise NotAuthorized(
                    f"an attestation token is not a token of an administrator; "
                    f"give {key.name} a key of its own"
                )
            return _administrator(key, claims.get("role"))
        raise refusals[0]


def token(key: jose.PrivateKey, *, role: Role | None, now: datetime, lifetime: timedelta) -> str:
    """Create a token of an administrator, signed with `key`.

    Args:
        role: role in the token; None for the key's `default_role`.
        lifetime: in whole seconds; a fraction is dropped.
    """
    issued_at = int(now.timestamp())
    claims = {"iat": issued_at, "exp": issued_at + int(lifetime.total_seconds())}
    return jose.sign(claims if role is None else {**claims, "role": role.value}, {}, key)


def _administrator(key: AdminKey, role_claim: object) -> Administrator:
    role = key.default_role if role_claim is None else _ROLES.get(str(role_claim))
    if role is None or (role_claim is not None and role not in key.roles):
        raise NotAuthorized(f"the role of this token is not allowed for tokens of {key.name}")
    return Administrator(Caller(f"kbs admin {key.name}", _RIGHTS), role, key.prefix)


_BY_RIGHTS: Final = (Role.REGISTER, Role.OPERATOR, Role.ADMIN)
"""Each role has the rights of those before it."""

_ROLES: Final = {role.value: role for role in Role}
_RIGHTS: Final = frozenset({Right.MANAGE})
