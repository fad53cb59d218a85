"""Files that the operator names for the HTTP listener: the token's key, administrators."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from verdictd_py.errors import ConfigError
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.admins import AdminKey, AdminKeys, Role

_PREFIX: Final = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9_.-]*/){1,2}")
"""One or two segments of a name (see `domain.names`); any other would never fit one."""

_MEMBERS: Final = frozenset({"name", "public_key", "roles", "default_role", "prefix"})


class AdminFile:
    """Who may administer over HTTP: a file that can be read again.

    Args:
        read: reads and checks the file.

    Raises:
        ConfigError: one line: cause and remedy.
    """

    def __init__(self, read: Callable[[], AdminKeys]) -> None:
        self._read = read
        self.keys = read()

    def reload(self) -> None:
        """Read the file again.

        Raises:
            ConfigError: one line: cause and remedy. The keys from before stay in force.
        """
        self.keys = self._read()


def read_token_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key that signs attestation tokens.

    Raises:
        ConfigError: one line: cause and remedy.
    """
    text = _read(path, "--kbs-token-key")
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(
            f"{path} is no unencrypted PEM key on P-256; make one with "
            "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
        )
    return key


def read_admins(path: Path) -> AdminKeys:
    """Who may administer over HTTP, from TOML: a table `[[key]]` for each.

    `name`; `public_key`, a PEM file beside this one; `roles` that its tokens may have;
    `default_role` of tokens that say none; `prefix` below which resources may be touched.

    Raises:
        ConfigError: one line: cause and remedy.
    """
    try:
        table = tomllib.loads(_read(path, "--kbs-admins").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}; mend that line") from None
    tables = table.get("key")
    if set(table) != {"key"} or not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path} has something else than tables [[key]]; see docs/http-guests.md")
    keys = tuple(_admin_key(each, path) for each in tables)
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path} has two keys of one name; give each its own")
    return AdminKeys(keys)


def _admin_key(table: dict[str, Any], path: Path) -> AdminKey:
    name = table.get("name")
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise ConfigError(f'{path} has a key without a name; write name = "..."')
    where = f"key {name!r} in {path}"
    unknown = sorted(set(table) - _MEMBERS)
    if unknown:
        raise ConfigError(f"{where} has {unknown[0]!r}, which is no setting of a key; remove it")
    roles = table.get("roles", [])
    default = table.get("default_role")
    prefix = table.get("prefix", "")
    try:
        found = frozenset(Role(role) for role in roles)
        default_role = None if default is None else Role(default)
    except (ValueError, TypeError):
        known = ", ".join(Role)
        raise ConfigError(f"{where} has a role that there is not; there are {known}") from None
    if not found and default_role is None:
        raise ConfigError(f'{where} has no role; write roles = ["admin"], or a default_role')
    if not isinstance(prefix, str) or (prefix and not _PREFIX.fullmatch(prefix)):
        raise ConfigError(
            f"{where} has a prefix that is none of a resource's name, with its slash at the end; "
            'write prefix = "default/key/"'
        )
    if Role.REGISTER in {*found, default_role} and not prefix:
        raise ConfigError(f"{where} has the role register and no prefix; say where it may register")
    named = table.get("public_key")
    if not isinstance(named, str):
        raise ConfigError(f"{where} has no public_key; name a PEM file")
    return AdminKey(name, _public_key(path.parent / named, where), found, default_role, prefix)


def _public_key(path: Path, where: str) -> jose.PublicKey:
    try:
        return jose.judging_key(load_pem_public_key(_read(path, f"public_key of {where}")))
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} is no PEM public key, Ed25519 or P-256; correct public_key of {where}"
        ) from None


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check {option}") from error
