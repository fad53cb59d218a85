"""Readers of the operator's files for the HTTP listener: key of tokens, administrators."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from verdictd_py.errors import ConfigError
from verdictd_py.protocols.rcar import jose
from verdictd_py.protocols.rcar.admins import AdminKey, AdminKeys, Role

_PREFIX: Final = re.compile(r"([A-Za-z0-9_-][A-Za-z0-9_.-]*/){1,2}")
"""One or two segments of a resource's name (see `domain.names`), each with its slash."""

_MEMBERS: Final = frozenset({"name", "public_key", "roles", "default_role", "prefix"})


def read_token_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read the key that signs attestation tokens.

    Raises:
        ConfigError: the file cannot be used; the message has the cause and the remedy.
    """
    text = _read(path, "--kbs-token-key")
    try:
        key = load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(
            f"{path} is not an unencrypted PEM key on P-256; create one with "
            "`openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256`"
        )
    return key


def read_admins(path: Path) -> AdminKeys:
    """Read the administrators' keys from TOML, with a table `[[key]]` for each.

    Its members: `name`; `public_key`, a PEM file, relative to this file; `roles` that tokens
    of the key may have; `default_role` of tokens without a role; `prefix` of the resources
    that may be changed.

    Raises:
        ConfigError: the file cannot be used; the message has the cause and the remedy.
    """
    try:
        table = tomllib.loads(_read(path, "--kbs-admins").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}; fix that line") from None
    tables = table.get("key")
    if set(table) != {"key"} or not isinstance(tables, list) or not tables:
        raise ConfigError(f"{path} must have tables [[key]] only; see docs/http-guests.md")
    keys = tuple(_admin_key(key_table, path) for key_table in tables)
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise ConfigError(f"{path} has two keys with the same name; give each its own")
    return AdminKeys(keys)


def public_key_files(path: Path) -> tuple[Path, ...]:
    """Return the files of public keys that `read_admins` would read; none if it would fail."""
    try:
        tables = tomllib.loads(_read(path, "--kbs-admins").decode()).get("key")
    except (ConfigError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        return ()
    listed = tables if isinstance(tables, list) else []
    names = [table.get("public_key") for table in listed if isinstance(table, dict)]
    return tuple(path.parent / name for name in names if isinstance(name, str))


def _admin_key(table: dict[str, Any], path: Path) -> AdminKey:
    name = table.get("name")
    if not isinstance(name, str) or not name.isprintable() or not name:
        raise ConfigError(f'{path} has a key without a name; write name = "..."')
    where = f"key {name!r} in {path}"
    unknown = sorted(set(table) - _MEMBERS)
    if unknown:
        raise ConfigError(f"{where} has the unknown setting {unknown[0]!r}; remove it")
    roles = table.get("roles", [])
    default = table.get("default_role")
    prefix = table.get("prefix", "")
    try:
        allowed = frozenset(Role(role) for role in roles)
        default_role = None if default is None else Role(default)
    except (ValueError, TypeError):
        known = ", ".join(Role)
        raise ConfigError(f"{where} has an unknown role; the roles are {known}") from None
    if not allowed and default_role is None:
        raise ConfigError(f'{where} has no role; write roles = ["admin"], or a default_role')
    if not isinstance(prefix, str) or (prefix and not _PREFIX.fullmatch(prefix)):
        raise ConfigError(
            f"{where} has a prefix that cannot begin a resource's name, or lacks the slash at its "
            'end; write prefix = "default/key/"'
        )
    if Role.REGISTER in {*allowed, default_role} and not prefix:
        raise ConfigError(
            f"{where} has the role register and no prefix; give a prefix for its keys"
        )
    public_key = table.get("public_key")
    if not isinstance(public_key, str):
        raise ConfigError(f"{where} has no public_key; name a PEM file")
    key = _public_key(path.parent / public_key, where)
    return AdminKey(name, key, allowed, default_role, prefix)


def _public_key(path: Path, where: str) -> jose.PublicKey:
    try:
        return jose.require_verification_key(
            load_pem_public_key(_read(path, f"public_key of {where}"))
        )
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(
            f"{path} is not a PEM public key, Ed25519 or P-256; correct public_key of {where}"
        ) from None


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; check {option}") from error
