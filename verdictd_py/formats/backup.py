"""Backup of a site's data directory: a tar archive whose first member lists all others.

The list has the size and the SHA-256 of each file. So a reader finds out that a file was altered,
omitted or added, and writes nothing before it has verified everything. The archive is encrypted as
a whole (`cli.store.recipients`); after decryption, any tar program can unpack it.

Sources: POSIX.1-2017 pax; docs/backup.md.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass, field
from typing import Any, Final

from verdictd_py.errors import StorageError

MANIFEST: Final = "verdictd-py-backup.json"

TOPS: Final = frozenset(
    {"keys", "image", "gpg", "opa", "resources", "collateral", "seals", "tokens"}
)
"""Directories of a data directory that a backup may contain. The audit trail is not among them:
it is written by one broker and verified where it was written."""

_VERSION: Final = 1
_MAX_SEGMENTS: Final = 4
_MAX_SEGMENT_BYTES: Final = 255


class BackupDamaged(StorageError):
    """The backup was altered, is incomplete, or is not a backup of this program."""


@dataclass(frozen=True, slots=True)
class BackedUpFile:
    """A file of the data directory.

    Attributes:
        path: segments below the data directory.
        mode: permission bits.
    """

    path: tuple[str, ...]
    content: bytes = field(repr=False)
    mode: int

    @property
    def name(self) -> str:
        return "/".join(self.path)


@dataclass(frozen=True, slots=True)
class Backup:
    """Content of a backup.

    Attributes:
        created: time of the backup, ISO 8601.
        files: its files, sorted by name.
    """

    created: str
    files: tuple[BackedUpFile, ...]


def pack(backup: Backup) -> bytes:
    """Return the archive, unencrypted: it contains secrets."""
    files = sorted(backup.files, key=lambda file: file.path)
    manifest = {
        "format": "verdictd-py backup",
        "version": _VERSION,
        "created": backup.created,
        "files": [
            {
                "name": file.name,
                "bytes": len(file.content),
                "sha256": hashlib.sha256(file.content).hexdigest(),
                "mode": f"{file.mode:04o}",
            }
            for file in files
        ],
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        _add(archive, MANIFEST, json.dumps(manifest, indent=1).encode(), 0o600)
        for file in files:
            _add(archive, file.name, file.content, file.mode)
    return packed.getvalue()


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), mode
    archive.addfile(member, io.BytesIO(content))


def unpack(packed: bytes) -> Backup:
    """Return the content of an archive whose files are all as the list says.

    Raises:
        BackupDamaged: a file was altered, omitted or added, a name is not one of a data directory,
            or it is another archive. The message names the file.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:") as archive:
            members = archive.getmembers()
            if not members or members[0].name != MANIFEST:
                raise BackupDamaged("it is an archive of another program")
            contents = {member.name: _content(archive, member) for member in members}
        if len(contents) != len(members):
            raise BackupDamaged("it has a file twice")
        manifest = json.loads(contents.pop(MANIFEST))
        return _verified(manifest, contents)
    except (tarfile.TarError, EOFError, RecursionError):
        raise BackupDamaged("it is not an archive, or is incomplete") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackupDamaged("its list of files is malformed") from None


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member) if member.isreg() else None
    if stream is None:
        raise BackupDamaged(f"{member.name[:200]!r} is not a regular file")
    return stream.read()


def _verified(manifest: dict[str, Any], contents: dict[str, bytes]) -> Backup:
    if manifest["version"] != _VERSION:
        raise BackupDamaged("it was written by a newer version; use that version")
    files = []
    for listed in manifest["files"]:
        name, content = listed["name"], contents.pop(listed["name"], None)
        if content is None:
            raise BackupDamaged(f"{name[:200]!r} is missing")
        if len(content) != listed["bytes"] or _sha256(content) != listed["sha256"]:
            raise BackupDamaged(f"{name[:200]!r} was altered")
        files.append(BackedUpFile(_segments(name), content, int(listed["mode"], 8) & 0o777))
    for name in contents:
        raise BackupDamaged(f"{name[:200]!r} was added")
    return Backup(str(manifest["created"]), tuple(files))


def _segments(name: str) -> tuple[str, ...]:
    """Return the segments of a name that lies below one of `TOPS`.

    Raises:
        BackupDamaged: it does not, or could lead elsewhere.
    """
    segments = tuple(name.split("/"))
    safe = all(
        segment not in ("", ".", "..")
        and segment.isprintable()
        and len(segment.encode()) <= _MAX_SEGMENT_BYTES
        for segment in segments
    )
    if not safe or segments[0] not in TOPS or not 2 <= len(segments) <= _MAX_SEGMENTS:
        raise BackupDamaged(f"{name[:200]!r} is not the name of a file in a data directory")
    return segments


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
