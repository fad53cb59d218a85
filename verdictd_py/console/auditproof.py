"""Verification and export of the audit trail for the console, bounded by bytes and records.

The commands `verdictd-py audit verify` and `export` have no bounds. An attacker who can change
the files of the trail can also change this program: an auditor verifies them on another host.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verdictd_py.console.audittrail import AuditSearch, newest_records
from verdictd_py.errors import StorageError
from verdictd_py.events.export import FORMATS
from verdictd_py.events.heads import HeadVerifier
from verdictd_py.events.opening import COMPRESSED
from verdictd_py.events.scan import files_of, irregular_in, irregular_scan, scan_all
from verdictd_py.events.verification import verified

MAX_VERIFIED_BYTES: Final = 32 * 1024 * 1024
"""Files that are verified, the newest first: two seconds of a thread."""

MAX_EXPORTED: Final = 10_000
"""Maximum number of records of an export."""

MAX_EXPORT_BYTES: Final = 16 * 1024 * 1024

_COMPRESSION: Final = 10
"""A compressed file counts for so many times its size: records have mostly hexadecimal digits."""

TYPES: Final = {
    "csv": "text/csv; charset=us-ascii",
    "jsonl": "application/x-ndjson",
    "cef": "text/plain; charset=us-ascii",
}
"""Type of the content of each form of an export."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Result of a verification.

    Attributes:
        problems: signs that files were changed after they were written.
        remarks: what an auditor should know.
        files: number of verified files.
        records: number of their records.
        signed: number of records that signatures of the broker's own key cover; None without key.
        complete: whether all files were verified.
    """

    problems: tuple[str, ...]
    remarks: tuple[str, ...]
    files: int
    records: int
    signed: int | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Export:
    """Records in one form.

    Attributes:
        complete: whether these are all matching records of the trail.
    """

    text: str
    number: int
    complete: bool


def verify(directory: Path, keys: Sequence[str] = ()) -> Proof:
    """Verify the newest files. This reads files, so that it takes a thread.

    Args:
        keys: public keys of the heads, base64.

    Raises:
        StorageError: the trail cannot be read.
    """
    try:
        paths = sorted(files_of(directory), reverse=True)
        chosen, left = [], MAX_VERIFIED_BYTES
        for path in paths:
            factor = _COMPRESSION if path.suffix == COMPRESSED else 1
            left -= factor * path.stat().st_size
            if left < 0:
                break
            chosen.append(path)
        complete = len(chosen) == len(paths)
        scans = [*scan_all(chosen), *map(irregular_scan, irregular_in(directory))]
    except OSError as error:
        raise StorageError(f"the audit trail cannot be read: {error.strerror}") from error
    verifiers = [HeadVerifier.of(key) for key in keys]
    findings = verified(scans, complete=complete, keys=verifiers)
    records = sum(each.records for each in scans)
    signed = min(records, sum(findings.signed.values())) if verifiers else None
    return Proof(
        findings.problems, findings.remarks, len(chosen), records, signed, complete=complete
    )


def export(directory: Path, wanted: AuditSearch, form: str) -> Export:
    """Export the newest matching records. This reads files, so that it takes a thread.

    Args:
        form: a name of `TYPES`.

    Raises:
        StorageError: the trail cannot be read.
    """
    records, complete = newest_records(directory, wanted, MAX_EXPORTED)
    parts: deque[str] = deque()
    size = 0
    for text in FORMATS[form](reversed(records)):
        size += len(text)
        if size > MAX_EXPORT_BYTES:
            complete = False
            break
        parts.append(text)
    return Export("".join(parts), len(records), complete and len(records) < MAX_EXPORTED)
