"""A start that fails is one line, whatever fails (see `tests/cli/test_mistakes.py`, too)."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.support.command import run_here
from verdictd_py.daemon import process


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("secret"), "internal error, RuntimeError in "),
        (OSError(errno.EMFILE, "Too many open files", "secret"), "OSError (Too many open files)"),
        (MemoryError("secret"), "internal error, MemoryError in "),
    ],
    ids=["bug", "system", "memory"],
)
def test_an_unexpected_failure_is_one_line_without_its_text(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    error: Exception,
    said: str,
) -> None:
    def broken(*_: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(process, "build_daemon", broken)
    ended = run_here(("--data-dir", str(tmp_path), "--listen", "127.0.0.1:0"), capfdbinary)
    (line,) = ended.stderr.splitlines()
    assert line.startswith("verdictd-py: internal error, ")
    assert said in line
    assert "secret" not in line
    assert ended.status == process.EXIT_FAILED
