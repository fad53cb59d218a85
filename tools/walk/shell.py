"""Commands one after another in one environment, and programs that keep running."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

SECONDS: Final = 900
"""Time limit of a command. `pip install` and the first start of the policy engine are slow."""

KEEPS_RUNNING: Final = (
    ("broker", re.compile(r"verdictd-py (?:\\\n|-)(?!-help|-version|V)"), "daemon.started"),
    ("demo", re.compile(r"(?:\./dev|verdictd-py) demo(?!.*--exit)"), "until you press Ctrl-C"),
    ("agent", re.compile(r"verdictd-py guest (?:.* )?agent ", re.DOTALL), "key provider on"),
)
"""Programs that keep running: role, beginning of the command, what they print when they serve.

A program ends the one of the same role, as a user ends it who starts another in the same terminal.
"""

_KEPT: Final = """
if [ -e "$WALK_STATE/environment" ]; then
  . "$WALK_STATE/environment"
  cd "$(cat "$WALK_STATE/directory")"
fi
"""
_RUN: Final = f"""{_KEPT}
eval "$1"
status=$?
export -p > "$WALK_STATE/environment"
pwd > "$WALK_STATE/directory"
exit $status
"""
_START: Final = f'{_KEPT}\neval "$1"'


class Failed(Exception):
    """A program did not do what the page needs."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit status, and what it wrote to either output."""

    status: int
    output: str


class Shell:
    """Runs commands one after another as in one terminal.

    Args:
        state: an existing directory for the environment that commands leave behind.
        directory: where the first command runs.
    """

    def __init__(self, state: Path, directory: Path, environment: Mapping[str, str]) -> None:
        self._state = state
        self._directory = directory
        self._environment = {**environment, "WALK_STATE": str(state)}
        self._running: dict[str, _Program] = {}

    def run(self, command: str, answer: str | None = None) -> Ended:
        """Run a command to its end, or until a program that keeps running serves.

        Args:
            answer: what is typed on a terminal as standard input; None: the input is empty.

        Raises:
            Failed: the time limit has passed, or the program ended before it served.
        """
        for role, pattern, ready in KEEPS_RUNNING:
            if pattern.match(command):
                self._end(role)
                program = _Program(command, self._popen(_START, command))
                self._running[role] = program
                program.wait_for(ready)
                return Ended(0, "")
        return self._to_its_end(command, answer)

    def stop(self) -> None:
        """Interrupt the programs that still run.

        Raises:
            Failed: one of them did not end with status 0.
        """
        for role in [*self._running]:
            self._end(role)

    def _to_its_end(self, command: str, answer: str | None) -> Ended:
        output = self._state / "output"
        with output.open("w") as target:
            terminal = None if answer is None else pty.openpty()
            if terminal is not None:
                os.write(terminal[0], f"{answer}\n".encode())
            try:
                process = self._popen(
                    _RUN,
                    command,
                    stdin=subprocess.DEVNULL if terminal is None else terminal[1],
                    stdout=target,
                )
                status = process.wait(SECONDS)
            except subprocess.TimeoutExpired as error:
                os.killpg(process.pid, signal.SIGKILL)
                raise Failed(f"it did not end within {SECONDS} s: {output.read_text()}") from error
            finally:
                for descriptor in terminal or ():
                    os.close(descriptor)
        return Ended(status, output.read_text(errors="replace"))

    def _popen(
        self,
        script: str,
        command: str,
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[str] = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", script, "walk", command],
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self._directory,
            env=self._environment,
            start_new_session=True,
        )

    def _end(self, role: str) -> None:
        program = self._running.pop(role, None)
        if program is not None:
            program.interrupt()


class _Program:
    """A program that keeps running; its output is read all the time, so that it never waits."""

    def __init__(self, command: str, process: subprocess.Popen[str]) -> None:
        self._command = command
        self._process = process
        self._output = cast("IO[str]", process.stdout)
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._at_end = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait_for(self, text: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._at_end or self._printed(text), SECONDS)
            if self._printed(text):
                return
        status = self._end(signal.SIGKILL)
        output = "".join(self._lines)
        raise Failed(f"it does not serve ({text}), status {status}:\n{output}")

    def _printed(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    def interrupt(self) -> None:
        status = self._end(signal.SIGINT)
        if status not in {0, 128 + signal.SIGINT, -signal.SIGINT}:
            raise Failed(f"{self._command} ended with status {status}:\n{''.join(self._lines)}")

    def _end(self, number: int) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        status = self._process.wait(SECONDS)
        self._reader.join(SECONDS)
        return status

    def _read(self) -> None:
        with self._output:
            for line in self._output:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._at_end = True
            self._changed.notify_all()
