"""`verdictd-py store backup|verify-backup|restore`: encrypted copies of the data directory."""

from __future__ import annotations

import argparse
import hashlib
import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, complain, printable
from verdictd_py.cli.store.actions import PROGRAM, Actions, add_action
from verdictd_py.cli.store.recipients import decrypted, encrypted
from verdictd_py.config import DEFAULT_DATA_DIR
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.formats.backup import Backup, BackupDamaged, pack, unpack
from verdictd_py.storage import snapshots
from verdictd_py.storage.directory import Directory

_Action = Callable[[argparse.Namespace], int]
_STATUS: Final = "0 done, 1 refused or damaged, 2 an option or a file cannot be used"


def add(actions: Actions[Parser]) -> None:
    """Add the actions."""
    backup = add_action(
        actions,
        "backup",
        "write an encrypted backup of the data directory while brokers run",
        _refusing(_backup),
        status=_STATUS,
        details="It has keys, resources, policies, reference data and token keys as they were at "
        "one instant;\nsealed objects remain sealed. The audit trail is not part of it.",
    )
    backup.add_argument("file", metavar="FILE", type=Path, help="the backup; it must not exist")
    backup.add_argument(
        "--recipient",
        metavar="RECIPIENT",
        action="append",
        required=True,
        help="age1..., or a file with an OpenPGP certificate; repeat it for several",
    )
    _add_directory(backup)
    verify = add_action(
        actions,
        "verify-backup",
        "decrypt a backup and verify every file in it; write nothing",
        _refusing(_verify),
        status=_STATUS,
    )
    restore = add_action(
        actions,
        "restore",
        "verify a backup, and write it into an empty data directory",
        _refusing(_restore),
        status=_STATUS,
        details="Stop the brokers that use the directory first.",
    )
    for reading in (verify, restore):
        reading.add_argument("file", metavar="FILE", type=Path, help="the backup")
        reading.add_argument(
            "--identity",
            metavar="FILE",
            type=Path,
            required=True,
            help="age identity, or OpenPGP secret key",
        )
        reading.add_argument(
            "--sha256", metavar="HEX", help="refuse another file than the one with this digest"
        )
    restore.add_argument(
        "--replace", action="store_true", help="move the content of the directory aside"
    )
    _add_directory(restore)


def _add_directory(action: Parser) -> None:
    action.add_argument(
        "--data-dir",
        metavar="DIR",
        type=Path,
        default=DEFAULT_DATA_DIR,
        help=f"the data directory ({DEFAULT_DATA_DIR})",
    )


def _refusing(run: _Action) -> _Action:
    """Return the action with its refusals on standard error."""

    def action(options: argparse.Namespace) -> int:
        try:
            return run(options)
        except StorageError as error:
            complain(f"{PROGRAM} {options.action}", f"{printable(str(options.file))}: {error}")
            return EXIT_REFUSED

    return action


def _backup(options: argparse.Namespace) -> int:
    if not options.data_dir.is_dir():
        raise ConfigError(f"there is no directory {options.data_dir}; correct --data-dir")
    files = snapshots.take(Directory.open(options.data_dir))
    created = datetime.now(UTC).isoformat(timespec="seconds")
    content = encrypted(pack(Backup(created, files)), options.recipient)
    write_new(options.file, content)
    print(f"{len(files)} files, {len(content)} bytes, sha256 {_sha256(content)}")
    return EXIT_OK


def _verify(options: argparse.Namespace) -> int:
    backup = _opened(options)
    size = sum(len(file.content) for file in backup.files)
    print(f"backup of {printable(backup.created)}: {len(backup.files)} files, {size} bytes, intact")
    return EXIT_OK


def _restore(options: argparse.Namespace) -> int:
    backup = _opened(options)
    aside = snapshots.restore(options.data_dir, backup, replace=options.replace)
    print(f"backup of {printable(backup.created)}: {len(backup.files)} files restored")
    if aside is not None:
        print(f"the former content is in {printable(str(aside))}; it contains secrets")
    return EXIT_OK


def _opened(options: argparse.Namespace) -> Backup:
    """Read, decrypt and verify a backup.

    Raises:
        ConfigError: a file cannot be read.
        BackupDamaged: it is not what was written.
    """
    try:
        content = options.file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {options.file}: {error.strerror}") from error
    if options.sha256 is not None and _sha256(content) != options.sha256.lower():
        raise BackupDamaged("it has another digest than --sha256")
    return unpack(decrypted(content, options.identity))


def write_new(path: Path, content: bytes) -> None:
    """Write a new file (0600), completely or not at all.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    temporary = path.with_name(f".tmp-{path.name}-{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            os.link(temporary, path)  # fails if the file exists
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)
    except FileExistsError:
        raise ConfigError(f"{path} exists already; choose another name") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
