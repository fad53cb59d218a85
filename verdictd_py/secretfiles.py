"""Small files with one secret: a key, a PIN, a password, a token.

One rule for all of them: the owner may read and change the file, its group may read it, and other
users may do nothing. This fits `chmod 400`, the credentials of systemd, and Secrets of Kubernetes
with `defaultMode: 0440`. Links are followed, because a mounted Secret is a link.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError

CREDENTIAL: Final = "credential:"
"""Prefix of the name of a credential of systemd, written instead of a path."""

_FORBIDDEN: Final = stat.S_IWGRP | stat.S_IRWXO
_MAX_PASSWORD_BYTES: Final = 4096


class SecretFileUnusable(StorageError):
    """A file cannot be used; the message has its path, the cause and the remedy, no content."""


@dataclass(frozen=True, slots=True)
class NamedFile:
    """File that a URL or a location names.

    Attributes:
        secret: the secret in it, for messages: `password`; empty if other users may read it: a
            certificate, or a library.
        readable_by_all: see `read_secret_file`.
        parameter: the part of the URL that names the file, for messages.
    """

    path: Path
    secret: str = ""
    readable_by_all: bool = False
    parameter: str = ""

    def require_private(self) -> None:
        """Refuse a file with a secret that other users may use; for files that libraries read.

        Raises:
            SecretFileUnusable: they may; the message has the remedy.
        """
        if not self.secret:
            return
        try:
            mode = self.path.stat().st_mode
        except OSError:
            return  # the reader of the file reports it
        if not stat.S_ISREG(mode):
            raise _no_regular_file(self.path, self.secret)
        _require_private(mode, self.path, self.secret, readable_by_all=self.readable_by_all)


def credential_file(text: str, default: Path | None = None) -> Path:
    """Return the file of `credential:NAME` (`LoadCredential=NAME:FILE` in the unit).

    Args:
        default: directory of the credentials for a process that the unit did not start; None if
            such a process has none.

    Raises:
        ValueError: it is not a name, or the process has no credentials; the message has the
            remedy.
    """
    name = text.removeprefix(CREDENTIAL)
    if not name or "/" in name or name.startswith("."):
        raise ValueError(f"{name!r} is not the name of a credential: write credential:NAME")
    directory = Path(os.environ.get("CREDENTIALS_DIRECTORY", ""))
    if directory.is_absolute():
        return directory / name
    if default is None:
        raise ValueError(
            f"{text}: the service manager gave no credentials; add LoadCredential={name}:FILE or "
            f"LoadCredentialEncrypted={name}:FILE to the unit, or write the path of a file"
        )
    return default / name


def read_secret_file(
    path: Path, what: str, *, max_bytes: int, readable_by_all: bool = False
) -> SecretBytes:
    """Read a file with a secret. The caller is in a thread: a file system may not answer.

    Args:
        what: the secret, for messages: `password`.
        max_bytes: maximum size of the file.
        readable_by_all: whether other users may read it. This is only for the JWT of a service
            account, which the kubelet writes with the mode 0644.

    Raises:
        SecretFileUnusable: it cannot be read, is empty or too large, is not a regular file, or
            other users may read or change it.
    """
    try:
        with open(path, "rb", opener=_opened) as stream:  # with an opener
            found = os.fstat(stream.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise _no_regular_file(path, what)
            _require_private(found.st_mode, path, what, readable_by_all=readable_by_all)
            content = stream.read(max_bytes + 1)
    except OSError as error:
        raise SecretFileUnusable(
            f"cannot read the {what} in {path}: {error.strerror}; correct the path, or make the "
            "file readable for this user"
        ) from None
    if not 0 < len(content) <= max_bytes:
        raise SecretFileUnusable(
            f"the file {path} has no {what}: it is empty, or larger than {max_bytes} bytes; write "
            f"the {what} into it"
        )
    return SecretBytes(content)


def read_password_file(path: Path) -> str:
    """Read a password of at most 4096 bytes; the text of the file ends at its newline.

    Raises:
        SecretFileUnusable: see `read_secret_file`; or it is not UTF-8 text.
    """
    content = read_secret_file(path, "password", max_bytes=_MAX_PASSWORD_BYTES).reveal()
    try:
        password = content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SecretFileUnusable(f"the password in {path} is not UTF-8; write text") from None
    if not password:
        raise SecretFileUnusable(f"the file {path} has no password; write the password into it")
    return password


def _require_private(mode: int, path: Path, what: str, *, readable_by_all: bool) -> None:
    forbidden = _FORBIDDEN & ~stat.S_IROTH if readable_by_all else _FORBIDDEN
    if mode & forbidden:
        raise SecretFileUnusable(
            f"other users may use the {what} in {path}; run 'chmod g-w,o= {path}', or set "
            "defaultMode: 0440 if it is a Secret of Kubernetes"
        )


def _no_regular_file(path: Path, what: str) -> SecretFileUnusable:
    return SecretFileUnusable(f"{path} is not a regular file; name a file with the {what}")


def _opened(path: str, flags: int) -> int:
    """Open a file; a FIFO without waiting for a writer."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
