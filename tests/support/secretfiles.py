"""Files with secrets that only this user may read, as `verdictd_py.secretfiles` requires."""

from __future__ import annotations

from pathlib import Path


def write_secret(path: Path, content: str | bytes) -> Path:
    """Write a file with the mode 0600, whatever the umask is; return its path."""
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
