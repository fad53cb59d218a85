"""Program that writes and signals itself at a chosen system call, run by test_crashes.

    python -m tests.storage.interrupted ROOT OPERATION SIGNAL CALL
    python -m tests.storage.interrupted ROOT OPERATION sweep
    python -m tests.storage.interrupted ROOT loop
    python -m tests.storage.interrupted ROOT race START_DESCRIPTOR CONTENT

CALL counts from 0, or names the call (`fsync`); the signal comes just before it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Final

from tests.support.stores import remove_leftovers
from verdictd_py.errors import AlreadyExists
from verdictd_py.storage.directory import Directory

OLD: Final = b"o" * 300_000
NEW: Final = b"n" * 200_000
NAME: Final = ("keys", "a", "b", "c")
RACES: Final = 40


def signalled_at(number: int, call: str) -> Callable[[FrameType, str, object], None]:
    """Profiler that signals this process before one system call."""
    calls = count()

    def profile(frame: FrameType, event: str, function: object) -> None:
        if event != "c_call" or getattr(function, "__module__", "") not in ("posix", "fcntl"):
            return
        position = next(calls)
        if call in (str(position), getattr(function, "__name__", "")):
            sys.setprofile(None)
            os.kill(os.getpid(), number)

    return profile


def interrupted(root: Path, operation: str, number: int, call: str) -> None:
    """Write `NEW`, and signal this process before `call` if it is called."""
    directory = Directory.open(root)
    directory.make("keys")
    write = directory.create if operation == "create" else directory.replace
    sys.setprofile(signalled_at(number, call))
    write(NAME, NEW)
    sys.setprofile(None)


def sweep(root: Path, operation: str) -> list[dict[str, object]]:
    """Return the content of the file after a kill before each system call in turn."""
    found = []
    directory = Directory.open(root)
    directory.make("keys")
    file = root.joinpath(*NAME)
    for call in count():
        if operation == "replace":
            directory.replace(NAME, OLD)
        child = os.fork()
        if child == 0:
            interrupted(root, operation, signal.SIGKILL, str(call))
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        found.append(
            {
                "killed": killed,
                "content": file.read_bytes()[:1].decode() if file.exists() else "",
                "whole": not file.exists() or file.read_bytes() in (OLD, NEW),
                "left": len(list(root.glob("**/.tmp-*"))),
            }
        )
        remove_leftovers(directory, "keys")
        found[-1]["left_at_next_start"] = len(list(root.glob("**/.tmp-*")))
        file.unlink(missing_ok=True)
        if not killed:
            return found
    raise AssertionError


def loop(root: Path) -> None:
    """Replace the file until killed, and print a line after each replacement."""
    directory = Directory.open(root)
    directory.make("keys")
    for content in (NEW, OLD) * 10_000:
        directory.replace(NAME, content)
        os.write(1, b".")


def race(root: Path, start: int, content: str) -> int:
    """Create many keys when `start` ends; return how many of them this process created."""
    directory = Directory.open(root)
    directory.make("keys")
    os.write(1, b"!")
    os.read(start, 1)
    won = 0
    for number in range(RACES):
        try:
            directory.create(("keys", str(number), "b", "c"), content.encode() * 10_000)
            won += 1
        except AlreadyExists:
            pass
    return won


def main(root: Path, operation: str, *more: str) -> None:
    match operation, *more:
        case ["loop"]:
            loop(root)
        case ["race", start, content]:
            sys.stdout.write(str(race(root, int(start), content)))
        case [_, "sweep"]:
            json.dump(sweep(root, operation), sys.stdout)
        case [_, name, call]:
            interrupted(root, operation, signal.Signals[name], call)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
