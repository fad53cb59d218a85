"""URLs of engines that brokers share: of Valkey, and what a URL of PostgreSQL must not have.

A URL never contains a password, because command lines and process lists are public. It names the
file, or the credential of the service manager, that contains it.

    valkey://[USER@]HOST[:PORT][/DATABASE][?OPTION=VALUE&...]
    valkeys://...                    the same with TLS
    valkey:///PATH/OF/SOCKET         unix socket

Options: `password_file`, `ca` (certificates of the CA that signed the server's; the system's
CAs by default), `cert` and `key` (of this client), `insecure_plaintext=yes` (no TLS off loopback).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from verdictd_py.domain.addresses import Address
from verdictd_py.errors import StorageError
from verdictd_py.secretfiles import CREDENTIAL, NamedFile, credential_file, read_password_file

VALKEY: Final = ("valkey", "valkeys")
POSTGRESQL: Final = ("postgresql", "postgres")

_PORT: Final = 6379
_OPTIONS: Final = frozenset({"password_file", "ca", "cert", "key", "insecure_plaintext"})


@dataclass(frozen=True, slots=True)
class EngineUrl:
    """Address of an engine, and how to authenticate to it.

    Attributes:
        scheme: one of `VALKEY`.
        address: host and port, or unix socket.
        user: name of the user; empty for the engine's default.
        database: name or number of the database; empty for the engine's default.
        password_file: file or credential that contains the password; empty without one.
        ca, cert, key: PEM files for TLS; empty without them.
        tls: whether the connection is encrypted and the server's certificate verified.
    """

    scheme: str
    address: Address
    user: str
    database: str
    password_file: str
    ca: str
    cert: str
    key: str
    tls: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a URL.

        Raises:
            ValueError: it cannot be used; the message has the cause and the remedy, and repeats
                nothing of a password.
        """
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise ValueError("the URL is malformed: write SCHEME://HOST:PORT/DATABASE") from None
        scheme = parts.scheme
        if scheme not in VALKEY:
            raise ValueError("the URL has an unknown scheme: write valkeys:// or postgresql://")
        if parts.password is not None:
            raise ValueError(
                "a password in a URL is visible to other users: remove it, and add "
                "?password_file=PATH"
            )
        options = _options(parts.query)
        database = unquote(parts.path.removeprefix("/"))
        unix = parts.path if not host and scheme == "valkey" else ""
        if not host and not unix:
            raise ValueError("the URL has no host: write SCHEME://HOST:PORT/DATABASE")
        if not unix and database and not _is_number(database):
            raise ValueError("the URL names no database: write a number, such as /0")
        address = Address(unix=unix) if unix else Address(host, port or _PORT)
        return cls(
            scheme=scheme,
            address=address,
            user=unquote(parts.username or ""),
            database="" if unix else database,
            password_file=options.get("password_file", ""),
            ca=options.get("ca", ""),
            cert=options.get("cert", ""),
            key=options.get("key", ""),
            tls=_tls(scheme, address, options),
        )

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """The files that the URL names, except credentials of the service manager."""
        named = (
            *((self.password_file, "password"), (self.key, "key")),
            *((self.ca, ""), (self.cert, "")),
        )
        return tuple(
            NamedFile(Path(name), secret)
            for name, secret in named
            if name and not name.startswith(CREDENTIAL)
        )

    def password(self) -> str | None:
        """Read the password; return None without one. The caller is in a thread.

        Raises:
            StorageError: it cannot be used; the message has the cause and the remedy.
        """
        if not self.password_file:
            return None
        path = Path(self.password_file)
        if self.password_file.startswith(CREDENTIAL):
            try:
                path = credential_file(self.password_file)
            except ValueError as error:
                raise StorageError(str(error)) from None
        return read_password_file(path)

    def __str__(self) -> str:
        """Return the address for messages: without user, files and options."""
        place = f"//{self.address}" if not self.address.unix else f"//{self.address.unix}"
        return f"{self.scheme}:{place}{'/' if self.database else ''}{self.database}"


def is_engine_url(text: str) -> bool:
    """Return whether a setting is a URL of an engine, valid or not, rather than a path."""
    return "://" in text


def is_database(text: str) -> bool:
    """Return whether a URL names a PostgreSQL database."""
    scheme, separator, _ = text.partition("://")
    return bool(separator) and scheme in POSTGRESQL


def require_database(text: str) -> None:
    """Refuse a text that is not a URL of PostgreSQL or has a password; libpq reads the rest.

    Raises:
        ValueError: it cannot be used; the message has the remedy, and repeats nothing of it.
    """
    if not is_database(text):
        raise ValueError("it is not a URL: write postgresql://USER@HOST/DATABASE")
    try:
        has_password = urlsplit(text).password is not None
    except ValueError:
        raise ValueError("the URL is malformed: write postgresql://USER@HOST/DATABASE") from None
    if has_password:
        raise ValueError(
            "it has a password, which other users could read: remove it, and use "
            "store_password_file or ~/.pgpass"
        )


def _options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise ValueError("the URL has an option twice: write each once")
    for name in options:
        if name == "password":
            raise ValueError(
                "a password in a URL is visible to other users: remove it, and add "
                "password_file=PATH"
            )
        if name not in _OPTIONS:
            raise ValueError(
                f"the URL has the unknown option {name[:40]!r}: the options are "
                f"{', '.join(sorted(_OPTIONS))}"
            )
    if ("cert" in options) != ("key" in options):
        raise ValueError("the options cert and key of the URL go together: write both, or neither")
    if options.get("insecure_plaintext", "yes") != "yes":
        raise ValueError("write insecure_plaintext=yes, or remove it")
    return options


def _tls(scheme: str, address: Address, options: Mapping[str, str]) -> bool:
    """Decide about TLS.

    Raises:
        ValueError: the connection would leave this host without TLS, or options contradict.
    """
    plaintext = "insecure_plaintext" in options
    if scheme == "valkeys" and plaintext:
        raise ValueError("valkeys:// and insecure_plaintext contradict each other; remove one")
    if scheme == "valkeys":
        return True
    if not address.local and not plaintext:
        raise ValueError(
            "valkey:// sends the password and the sessions without TLS: write valkeys://, or add "
            "insecure_plaintext=yes for a network that only the brokers can reach"
        )
    if {"ca", "cert"} & set(options):
        raise ValueError(
            "valkey:// uses no TLS, so ca, cert and key have no effect: use valkeys://"
        )
    return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5
