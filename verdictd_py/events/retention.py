"""Retention of the audit trail: which files are removed, with what remains as proof of them.

A file is removed only if its writer has ended, a later file states how it ended, and the files that
it states itself are removed as well. What is left is therefore always the end of the trail. The
record `audit.pruned` is written before, with the first and the last digest of each removed file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from verdictd_py.domain.events import AuditPruned
from verdictd_py.errors import StorageError
from verdictd_py.events.scan import began_at
from verdictd_py.events.statements import State, Statement
from verdictd_py.events.traildirectory import audit_files, first_of, has_state, tail_of

MAX_PRUNED: Final = 64
"""Maximum number of files that are removed at once, with one record."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a new file begins; None for no limit.

    Attributes:
        size: size of the file in bytes.
        seconds: age of the file.
    """

    size: int | None = None
    seconds: float | None = None


NO_ROTATION: Final = Rotation()


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the trail is retained; None for no limit.

    Attributes:
        seconds: age of the last record of a file, according to its own time: who may write the
            file may set its date as well.
        size: size of all files in bytes.
        now: clock, in seconds since 1970.
    """

    seconds: float | None = None
    size: int | None = None
    now: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    def excess(self, directory: Path, own: str) -> tuple[Path, ...]:
        """Return the files to remove, the oldest first. Call it while the directory is locked.

        Args:
            own: name of the file that is written.

        Raises:
            OSError: the directory cannot be read.
        """
        sizes = {path: path.lstat() for path in audit_files(directory)}
        total = sum(status.st_size for status in sizes.values())
        oldest = float("-inf") if self.seconds is None else self.now() - self.seconds
        limit = total if self.size is None else self.size
        excess: list[Path] = []
        if total <= limit and all(status.st_mtime >= oldest for status in sizes.values()):
            return ()
        for path in sorted(sizes, key=began_at):
            is_old = sizes[path].st_mtime < oldest and _last_time(path) < oldest
            if not (total > limit or is_old) or len(excess) >= MAX_PRUNED or path.name == own:
                break
            if has_state(directory, path.name) or not _is_first(path, {p.name for p in excess}):
                break
            excess.append(path)
            total -= sizes[path].st_size
        return tuple(excess)


def _last_time(path: Path) -> float:
    """Return the time of the last record, in seconds since 1970; never, if there is none."""
    try:
        return datetime.fromisoformat(tail_of(path).time).timestamp()
    except (OSError, ValueError):
        return float("inf")  # a damaged file is evidence


def _is_first(path: Path, removed: Collection[str]) -> bool:
    """Return whether no file is left that this file states."""
    try:
        fields = first_of(path).get("fields", {})
        named = [Statement.parse(text).name for text in fields.get("files", ())]
    except (OSError, ValueError, AttributeError, TypeError, StorageError):
        return path.stat().st_size == 0  # a damaged file is evidence
    return all(name in removed or not path.with_name(name).exists() for name in named)


def pruned(files: Collection[Path]) -> AuditPruned | None:
    """Return the event that announces the removal; None if there is nothing to remove.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    if not files:
        return None
    statements = []
    for path in files:
        tail = tail_of(path)
        first = first_of(path)["digest"] if tail.records else ""
        statements.append(
            Statement(path.name, State.PRUNED, tail.records, tail.digest, first=first)
        )
    return AuditPruned(
        files=tuple(map(str, statements)),
        records=sum(statement.records for statement in statements),
        reason="--audit-keep-days or --audit-keep-bytes does not allow more",
    )


def remove(files: Collection[Path]) -> None:
    """Remove files whose removal is recorded; one that cannot be removed is tried again later."""
    for path in files:
        with suppress(OSError):
            path.unlink()
