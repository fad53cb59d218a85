"""`--timeout` of commands that need no broker, and progress until their first output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.output.test_terminal import Stream
from tests.support.command import COMMAND, environment, run_here
from verdictd_py.cli import programs
from verdictd_py.cli.main import _LIMITED, COMMANDS
from verdictd_py.cli.output import limits, progress


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (("audit", "verify"), None),
        (("audit", "verify", "--timeout", "50"), 50.0),
        (("audit", "verify", "--timeout=10.5"), 10.5),
        (("audit", "verify", "--timeout", "x"), None),  # the parser refuses it
        (("audit", "verify", "--timeout"), None),
        (("audit", "verify", "--", "--timeout", "50"), None),
    ],
)
def test_the_limit_on_a_command_line(words: tuple[str, ...], seconds: float | None) -> None:
    assert limits.requested(words) == seconds


def test_every_limited_command_and_action_has_the_option() -> None:
    for name in _LIMITED:
        for line in programs._below((name,), programs.parser_of(name)):
            assert "--timeout" in line.parser._option_string_actions, line.words


def test_every_command_is_limited_unless_it_reads_nothing() -> None:
    assert COMMANDS.keys() - _LIMITED == {"completion", "guest", "man"}
    for line in programs._below(("guest",), programs.parser_of("guest")):
        assert "--timeout" in line.parser._option_string_actions, line.words  # of each step


def _wait_for_signals() -> None:
    with limits.limited(0.01):
        while True:
            signal.pause()


def test_work_that_is_not_finished_in_time_ends() -> None:
    with pytest.raises(limits.TimeExpired, match=r"not finished within 0\.01 s"):
        _wait_for_signals()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_command_that_is_not_finished_in_time_is_one_line(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    os.mkfifo(tmp_path / "log")  # nothing ever writes into it
    limit = ("--timeout", "0.2")  # window: the file never has an end
    ended = run_here(("appraise", str(tmp_path / "log"), *limit, "--json"), capfdbinary)
    line = ended.complaint(2, "verdictd-py appraise")
    assert line.startswith("not finished within")
    assert ended.json["code"] == "timeout"


def test_the_key_provider_ends_if_its_input_does_not(tmp_path: Path) -> None:
    limit = ("--timeout", "0.2")  # window: the input never has an end
    command = [*COMMAND, "keyprovider", "--data-dir", str(tmp_path), *limit]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True
    ) as process:
        assert process.stderr is not None
        line = process.stderr.read()
        assert process.wait() == 2
    assert line.startswith("verdictd-py keyprovider: not finished within")
    assert line.count("\n") == 1


def test_the_progress_ends_before_the_first_output(monkeypatch: pytest.MonkeyPatch) -> None:
    stdout, stderr = Stream(terminal=True), Stream(terminal=True)
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    ended: list[str] = []
    monkeypatch.setattr(
        progress, "tick", lambda text, stream, wait: ended.append(f"{text} {wait(60.0)}")
    )
    with progress.until_output("work"):
        assert sys.stdout.isatty()
        assert not ended
        sys.stdout.write("result\n")
        assert ended == ["work True"]
        sys.stdout.write("more\n")
    assert stdout.getvalue() == "result\nmore\n"
    assert sys.stdout is stdout
