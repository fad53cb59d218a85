"""Sealed objects on a data directory, with a key file next to it."""

from __future__ import annotations

import secrets
from pathlib import Path

from verdictd_py.sealing.datakeys import DataKeys
from verdictd_py.sealing.keyfile import KeyFile
from verdictd_py.sealing.sealer import EnvelopeSealer
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.objects import SealedObjects
from verdictd_py.storage.resealing import Resealing


def write_key(path: Path) -> Path:
    """Write a new key file; rename the one before, so that it still unwraps."""
    if path.exists():
        number = len(list(path.parent.glob(f"{path.name}.old*")))
        path.rename(path.with_name(f"{path.name}.old-{number}"))
    path.write_bytes(secrets.token_bytes(32))
    path.chmod(0o400)
    return path


def sealer(kek: Path, *, cache: DataKeys | None = None) -> EnvelopeSealer:
    """Return a sealer with a key file, which is created if it is missing."""
    return EnvelopeSealer(KeyFile(kek if kek.exists() else write_key(kek)), cache)


def sealed_objects(
    directory: Directory, kek: Path, *, strict: bool = False, warnings: list[str] | None = None
) -> SealedObjects:
    """Return sealed objects with a key file, which is created if it is missing."""
    texts = [] if warnings is None else warnings
    return SealedObjects(
        directory, sealer(kek), strict=strict, warn=lambda path, error: texts.append(str(error))
    )


def resealing(directory: Directory, kek: Path) -> Resealing:
    """Return the work on a whole directory, as a new process would do it."""
    own = sealer(kek)
    return Resealing(directory, SealedObjects(directory, own), current=lambda: own.key.current)
