"""Questions about paths that this user may not reach: each has an answer, never an exception.

`Path.exists` and the like raise PermissionError for a path below a directory that this user may not
search, as after a restore whose files belong to another user.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path


def exists(path: Path) -> bool:
    """Return whether a path exists and can be reached."""
    return _mode(path) is not None


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory that can be reached."""
    return stat.S_ISDIR(_mode(path) or 0)


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file that can be reached."""
    return stat.S_ISREG(_mode(path) or 0)


def is_socket(path: Path) -> bool:
    """Return whether a path is a socket that can be reached."""
    return stat.S_ISSOCK(_mode(path) or 0)


def first_existing(paths: Iterable[Path]) -> Path:
    """Return the first path that exists and can be reached; the root directory if none does."""
    return next((path for path in paths if exists(path)), Path("/"))


def barrier(path: Path) -> Path | None:
    """Return the directory above a path that this user may not search; None if there is none.

    Links count, such as that of a dynamic user of systemd to `/var/lib/private`.
    """
    real = Path(os.path.realpath(path))
    above = (*reversed(path.absolute().parents), *reversed(real.parents))
    return next((one for one in above if is_directory(one) and not os.access(one, os.X_OK)), None)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode
    except OSError:
        return None
