"""The files of a simulated platform, in one directory that only its owner can read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from verdictd_py.errors import ConfigError

PLATFORM_FILE: Final = "platform.json"
"""Options, certificates and private keys."""

ROOT_FILE: Final = "root-ca.pem"
"""The root certificate only, for use as the trusted root of a broker under test."""

MAX_PLATFORM_BYTES: Final = 256 * 1024
"""A platform takes about 6 KiB; a larger file is something else."""


def write(directory: Path, document: dict[str, Any], root_pem: str) -> None:
    """Write or replace both files, each atomically and with mode 0600.

    Raises:
        ConfigError: the directory cannot be created or written, or others can read it.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            raise ConfigError(
                f"{directory}: other users can access it, but it will contain private keys; "
                "set mode 0700"
            )
        _replace(directory / ROOT_FILE, root_pem)
        _replace(directory / PLATFORM_FILE, json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(
            f"{directory}: the simulated platform cannot be saved ({error.strerror}); "
            "give --platform DIR, a directory that this user can write"
        ) from error


def read(directory: Path) -> dict[str, Any]:
    """Read the JSON object that `write` wrote, without validating its members.

    Raises:
        ConfigError: the file is missing, unreadable or not a JSON object.
    """
    path = directory / PLATFORM_FILE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_PLATFORM_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the simulated platform ({error.strerror})"
        ) from error
    if len(content) > MAX_PLATFORM_BYTES:
        raise ConfigError(f"{path}: larger than any simulated platform")
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError
    except (ValueError, RecursionError):
        # The text could contain a key: no part of it may be in the error.
        raise ConfigError(f"{path}: not the file of a simulated platform") from None
    return document


def _replace(path: Path, text: str) -> None:
    """Write `text` to a temporary file next to `path` (mkstemp sets mode 0600) and rename it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
