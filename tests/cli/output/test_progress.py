"""Progress of long work: after two seconds, on a terminal only, and erased at the end."""

from __future__ import annotations

import io

import pytest

from tests.cli.output.test_terminal import Stream
from verdictd_py.cli.output import progress


def ticked(*waits: bool) -> tuple[str, list[float]]:
    """Return what is written, and the waits, for work that ends at the first wait that is True."""
    stream, results, asked = Stream(terminal=True), iter(waits), []
    now = 100.0

    def wait(seconds: float) -> bool:
        nonlocal now
        asked.append(seconds)
        now += seconds
        return next(results)

    progress.tick("waiting for the broker at \x1b", stream, wait, lambda: now)
    return stream.getvalue(), asked


def test_short_work_writes_nothing() -> None:
    assert ticked(True) == ("", [progress.PATIENCE_SECONDS])


def test_long_work_writes_its_seconds_and_erases_the_line() -> None:
    written, waits = ticked(False, False, True)
    assert written.split("\r\x1b[K") == [
        "",
        "waiting for the broker at \\x1b, 2 s",
        "waiting for the broker at \\x1b, 3 s",
        "",
    ]
    assert waits == [2.0, 1.0, 1.0]


def test_the_line_never_exceeds_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    written, _ = ticked(False, True)
    assert max(map(len, written.split("\r\x1b[K"))) < 20


@pytest.mark.parametrize("terminal", [True, False])
def test_the_work_is_done_in_any_case(*, terminal: bool) -> None:
    stream = Stream(terminal=terminal)
    with pytest.raises(KeyError), progress.shown("x", stream):
        raise KeyError
    assert stream.getvalue() == ""


def test_a_closed_terminal_is_no_failure() -> None:
    stream = io.StringIO()
    stream.close()
    progress.tick("x", stream, lambda seconds: False)
