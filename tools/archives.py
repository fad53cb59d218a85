"""Archives whose bytes depend on their files only."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path


def write_tar(directory: Path, target: Path, epoch: int) -> None:
    """Write the files below a directory, with its name, to an archive.

    Args:
        epoch: seconds since 1970 of every time in it.
    """
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for file in [directory, *sorted(directory.rglob("*"))]:
            member = archive.gettarinfo(file, str(file.relative_to(directory.parent)))
            with file.open("rb") if member.isfile() else io.BytesIO() as content:
                archive.addfile(_anonymous(member, epoch), content)


def repack(source: Path, epoch: int, *, compressed: bool = False) -> None:
    """Replace an archive by one with the same files, sorted, without times and owners."""
    packed = source.with_name(f"{source.name}.tmp")
    with tarfile.open(source) as old, packed.open("wb") as raw:
        stream = gzip.GzipFile("", "wb", 9, raw, mtime=0) if compressed else raw
        with stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as new:
            for member in sorted(old.getmembers(), key=lambda member: member.name):
                content = old.extractfile(member) if member.isfile() else None
                new.addfile(_anonymous(member, epoch), content)
    packed.replace(source)


def _anonymous(member: tarfile.TarInfo, epoch: int) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = epoch
    member.pax_headers = {}
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def sha256(file: Path) -> str:
    """Return the digest of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
