"""Logins of Vault: a token in a file, AppRole, and Kubernetes.

Secrets are read from their files at each login, so that a rotated file needs no restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError
from verdictd_py.secretfiles import NamedFile, read_secret_file

_MAX_FILE_BYTES: Final = 16 * 1024
"""Size limit of a token, a secret id or a JWT: Kubernetes' have about 1 KiB."""


LoginRequest = tuple[str, Mapping[str, str]]
"""Path and body of the request that logs in."""


class Login(Protocol):
    """How a client gets a token."""

    @property
    def secret_file(self) -> NamedFile:
        """The file of its secret."""
        ...

    def begin(self) -> SecretBytes | LoginRequest:
        """Return the token, or the request whose answer has it.

        Raises:
            StorageError: a file cannot be used.
        """
        ...


@dataclass(frozen=True, slots=True)
class TokenFile:
    """A token that another program made, such as the agent of Vault."""

    file: Path

    @property
    def secret_file(self) -> NamedFile:
        return NamedFile(self.file, "token for Vault")

    def begin(self) -> SecretBytes:
        return SecretBytes(_read(self.secret_file).encode())


@dataclass(frozen=True, slots=True)
class AppRole:
    """AppRole: the role's id, and the file of a secret id."""

    role_id: str
    secret_id: Path
    mount: str

    @property
    def secret_file(self) -> NamedFile:
        return NamedFile(self.secret_id, "secret id for Vault")

    def begin(self) -> LoginRequest:
        secret_id = _read(self.secret_file)
        return f"auth/{self.mount}/login", {"role_id": self.role_id, "secret_id": secret_id}


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """Kubernetes: a role, and the JWT of the pod's service account, which the kubelet renews."""

    role: str
    jwt: Path
    mount: str

    @property
    def secret_file(self) -> NamedFile:
        return NamedFile(self.jwt, "JWT for Vault", readable_by_all=True)

    def begin(self) -> LoginRequest:
        jwt = _read(self.secret_file)
        return f"auth/{self.mount}/login", {"role": self.role, "jwt": jwt}


def _read(file: NamedFile) -> str:
    """Read a file of one line.

    Raises:
        StorageError: it cannot be used (see `read_secret_file`), or has other characters than an
            HTTP header may have.
    """
    content = read_secret_file(
        file.path,
        file.secret,
        max_bytes=_MAX_FILE_BYTES,
        readable_by_all=file.readable_by_all,
    )
    text = content.reveal().decode("latin-1").strip()
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise StorageError(
            f"{file.path} is not one line with a {file.secret}; write the {file.secret} into it"
        )
    return text
