"""What may lie in the place of an audit file is opened without waiting, and refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from verdictd_py.events.opening import open_regular


@pytest.mark.parametrize("what", ["named pipe", "device", "directory"])
def test_only_regular_files_are_opened(tmp_path: Path, what: str) -> None:
    """A named pipe has no end while a writer has it open, and /dev/zero never has one."""
    path = tmp_path / "a.jsonl"
    if what == "named pipe":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(path)


def test_a_regular_file_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"line\n")
    with open_regular(path) as stream:
        assert stream.read() == b"line\n"
