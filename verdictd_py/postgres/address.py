"""Address of a database: the URL of a setting, and how a connection to it is protected.

A password is never part of the URL, which every user of the host can read in the list of processes.
The server's certificate and name are verified, unless the connection is a unix socket or the
operator has chosen an option that says unsafe in its name.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict

from verdictd_py.errors import ConfigError
from verdictd_py.secretfiles import NamedFile, read_password_file

UNSAFE_OPTION: Final = "--unsafe-store-tls"

_ALLOWED: Final = frozenset(
    {
        *("host", "hostaddr", "port", "user", "dbname", "passfile", "connect_timeout"),
        *("sslmode", "sslrootcert", "sslcrl", "sslcert", "sslkey", "target_session_attrs"),
    }
)
"""Parameters of libpq that a URL may have."""

_FILES: Final = {
    "sslrootcert": "",
    "sslcrl": "",
    "sslcert": "",
    "sslkey": "key",
    "passfile": "password",
}
"""Parameters that name a file, and the secret in it (empty: it has none)."""

_SYSTEM: Final = "system"
_SYSTEM_ROOTS: Final = 160_000
"""First version of libpq with `sslrootcert=system`."""

_CONNECT_SECONDS: Final = 5
_STATEMENT_MS: Final = 10_000
_LOCK_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class Address:
    """A checked address.

    Attributes:
        parameters: parameters of libpq, without a password.
        text: where it is, for messages.
        password_file: file with the password; None for a password file of libpq, a certificate, or
            a server that needs none.
    """

    parameters: dict[str, str]
    text: str
    password_file: Path | None = field(default=None)

    @classmethod
    def parse(
        cls,
        url: str,
        *,
        option: str = "--store",
        password_file: Path | None = None,
        unsafe_tls: bool = False,
    ) -> Self:
        """Check a URL and complete it.

        Args:
            option: the setting that has the URL, for messages.
            unsafe_tls: whether a connection without a verified certificate is allowed.

        Raises:
            ConfigError: the URL cannot be used; the message does not repeat it.
        """
        given = _parameters(url, option)
        hosts = [host for host in given.get("host", "").split(",") if host]
        local = bool(hosts) and all(host.startswith("/") for host in hosts)
        if not hosts:
            raise ConfigError(
                f"{option} names no server: write postgresql://USER@HOST/DATABASE, or "
                "postgresql:///DATABASE?host=/run/postgresql for a unix socket"
            )
        if local and (given.get("hostaddr") or os.environ.get("PGHOSTADDR")):
            raise ConfigError(
                f"{option} names a unix socket and an address (hostaddr, PGHOSTADDR), to which "
                "libpq would connect without TLS; remove one of them"
            )
        parameters = {
            "connect_timeout": str(_CONNECT_SECONDS),
            "target_session_attrs": "read-write",
            **given,
            "application_name": "verdictd-py",
            "gssencmode": "disable",
            "options": f"-c statement_timeout={_STATEMENT_MS} -c lock_timeout={_LOCK_MS} "
            f"-c idle_in_transaction_session_timeout={_STATEMENT_MS} -c search_path=verdictd",
        }
        if local:
            parameters["sslmode"] = "disable"
        else:
            parameters |= _tls(given, option, unsafe=unsafe_tls)
        text = ",".join(hosts)
        if not local and "port" in given:
            text += f":{given['port']}"
        return cls(parameters, f"{text}/{given.get('dbname', '')}", password_file)

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """The files that the URL names."""
        return tuple(
            NamedFile(Path(path), secret, parameter=name)
            for name, secret in _FILES.items()
            if (path := self.parameters.get(name)) and path != _SYSTEM
        )

    def password(self) -> str | None:
        """Read the password; return None without a file. The caller is in a thread.

        Raises:
            SecretFileUnusable: it cannot be used; the message has the cause and the remedy.
        """
        return None if self.password_file is None else read_password_file(self.password_file)


def _parameters(url: str, option: str) -> dict[str, str]:
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except ProgrammingError:  # its text quotes the URL
        raise ConfigError(
            f"{option} is not a URL of PostgreSQL; write postgresql://USER@HOST/DATABASE"
        ) from None
    if "password" in given:
        raise ConfigError(
            f"{option} has a password, which every user of this host could read; remove it, and "
            "write it to the file of --store-password-file or to ~/.pgpass"
        )
    for name in sorted(given.keys() - _ALLOWED):
        raise ConfigError(
            f"{option}: the parameter {name} is not allowed; remove it. Allowed are "
            f"{', '.join(sorted(_ALLOWED))}"
        )
    return given


def _tls(given: dict[str, str], option: str, *, unsafe: bool) -> dict[str, str]:
    """Return the parameters of TLS.

    Raises:
        ConfigError: the mode does not verify the server, and that is not allowed.
    """
    mode = given.get("sslmode", "verify-full")
    if mode != "verify-full" and not unsafe:
        raise ConfigError(
            f"{option}: sslmode={mode} does not verify the server; remove it, or add "
            f"{UNSAFE_OPTION} for a test"
        )
    parameters = {"sslmode": mode}
    if mode == "verify-full" and "sslrootcert" not in given and pq.version() >= _SYSTEM_ROOTS:
        parameters["sslrootcert"] = _SYSTEM
    return parameters
