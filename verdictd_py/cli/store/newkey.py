"""`verdictd-py store new-key`: creates the key file of `--seal file:/path`, or a newer version."""

from __future__ import annotations

import argparse
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from verdictd_py.cli.parsing import EXIT_OK, Parser, printable
from verdictd_py.cli.store.actions import Actions, add_action
from verdictd_py.errors import ConfigError

_KEY_BYTES = 32


def add(actions: Actions[Parser]) -> None:
    """Add the action."""
    action = add_action(
        actions,
        "new-key",
        "create a key file for --seal file:FILE, or a newer version of it",
        _run,
        status="0 done, 2 the file cannot be written",
        details="An existing key is renamed to FILE.old-TIME, and still unseals what it has "
        "sealed.\nRun 'verdictd-py store rotate' afterwards, and remove it then.",
    )
    action.add_argument("file", metavar="FILE", type=Path, help="the key file")


def _run(options: argparse.Namespace) -> int:
    file: Path = options.file
    try:
        old = create(file)
    except OSError as error:
        raise ConfigError(
            f"cannot write {file}: {error.strerror}; name a file in a directory of this user"
        ) from None
    print(f"{printable(str(file))}: a new key; copy it to a safe place before you use it")
    if old is not None:
        print(
            f"{printable(str(old))}: the key before; run 'verdictd-py store rotate', then remove it"
        )
    return EXIT_OK


def create(file: Path) -> Path | None:
    """Create a key file; return the new name of the one before, if there was one.

    At every instant, `file` has a whole key, the old one or the new one.

    Raises:
        OSError: it cannot be written.
    """
    new = file.with_name(f".{file.name}.new-{secrets.token_hex(8)}")
    old: Path | None = None
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400)
    try:
        try:
            os.write(descriptor, secrets.token_bytes(_KEY_BYTES))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if file.exists():
            old = file.with_name(f"{file.name}.old-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
            os.link(file, old)
            new.rename(file)
        else:
            os.link(new, file)  # fails if another process has created it meanwhile
    finally:
        with suppress(FileNotFoundError):
            new.unlink()
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return old
