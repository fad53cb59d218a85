"""Encryption of backups, to age or OpenPGP recipients, and decryption with an identity file.

age needs the optional Python package pyrage. Both formats authenticate the content of the file, not
its sender: any program that knows the recipient can write a backup. `restore --sha256` compares the
digest that `backup` printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pysequoia import Cert, Tsk, decrypt, encrypt

from verdictd_py.cli.parsing import read_whole
from verdictd_py.errors import ConfigError
from verdictd_py.formats.backup import BackupDamaged

_AGE: Final = "age1"
_AGE_IDENTITY: Final = "AGE-SECRET-KEY-"
_AGE_FILE: Final = b"age-encryption.org/"
_MAX_FILE_BYTES: Final = 1024 * 1024


def encrypted(content: bytes, recipients: Sequence[str]) -> bytes:
    """Encrypt for all recipients: age recipients, or names of files with OpenPGP certificates.

    Raises:
        ConfigError: a recipient cannot be used, or both kinds are mixed.
    """
    age = [recipient for recipient in recipients if recipient.startswith(_AGE)]
    if age and len(age) != len(recipients):
        raise ConfigError("recipients of age and of OpenPGP cannot be mixed; write two backups")
    if age:
        library = _age()
        try:
            keys = [library.x25519.Recipient.from_str(recipient) for recipient in age]
        except library.RecipientError:
            raise ConfigError("a recipient is not one of age; copy it again") from None
        return bytes(library.encrypt(content, keys))
    certificates = [_certificate(Path(recipient)) for recipient in recipients]
    try:
        return encrypt(content, recipients=certificates, armor=False)
    except Exception as error:  # the library raises RuntimeError and others
        raise ConfigError(
            f"a certificate cannot encrypt: {str(error)[:200]}; use one with an encryption key"
        ) from error


def decrypted(content: bytes, identity: Path) -> bytes:
    """Decrypt a backup.

    Raises:
        ConfigError: the identity cannot be used.
        BackupDamaged: it is not encrypted to this identity, or was altered.
    """
    text = read_whole(identity, _MAX_FILE_BYTES)
    if content.startswith(_AGE_FILE):
        library = _age()
        lines = (line.strip() for line in text.decode("utf-8", "replace").splitlines())
        try:
            keys = [
                library.x25519.Identity.from_str(line)
                for line in lines
                if line.upper().startswith(_AGE_IDENTITY)
            ]
        except library.IdentityError:
            keys = []
        if not keys:
            raise ConfigError(f"{identity} has no age identity; the backup is one of age")
        try:
            return bytes(library.decrypt(content, keys))
        except library.DecryptError:
            raise _refused(identity) from None
    try:
        decryptor = Tsk.from_bytes(text).decryptor()
    except Exception:  # noqa: BLE001  # see above; nothing of a secret key is repeated
        raise ConfigError(
            f"{identity} has no unprotected OpenPGP secret key that can decrypt; export it with "
            "'gpg --export-secret-keys' without a passphrase into memory-backed storage"
        ) from None
    try:
        plain = decrypt(content, decryptor=decryptor).bytes
    except Exception:  # noqa: BLE001  # see above
        raise _refused(identity) from None
    if plain is None:
        raise _refused(identity)
    return bytes(plain)


def _refused(identity: Path) -> BackupDamaged:
    return BackupDamaged(
        f"it cannot be decrypted with {identity}: it is for another recipient, or was altered"
    )


def _certificate(path: Path) -> Cert:
    content = read_whole(path, _MAX_FILE_BYTES)
    try:
        certificate = Cert.from_bytes(content)
    except Exception:  # noqa: BLE001  # see above
        raise ConfigError(
            f"{path} is neither an age recipient (age1...) nor a file with an OpenPGP certificate"
        ) from None
    expiration = certificate.expiration
    if certificate.is_revoked or (expiration is not None and expiration <= datetime.now(UTC)):
        raise ConfigError(f"the certificate in {path} is revoked or expired; use another one")
    return certificate


def _age() -> Any:  # noqa: ANN401  # optional package without types
    try:
        import pyrage  # noqa: PLC0415  # optional package
    except ModuleNotFoundError as error:
        raise ConfigError(
            "age needs the Python package pyrage: pip install 'verdictd-py[age]'; OpenPGP works "
            "without it"
        ) from error
    return pyrage
