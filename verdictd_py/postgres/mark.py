"""Mark of a broker: the last change of the database that it has seen, in a file of its own host.

A broker that restarts refuses a database whose last change has a lower number: it was rolled back.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from verdictd_py.errors import ConfigError


class Mark:
    """The mark in a file, which is replaced atomically.

    Attributes:
        file: the file.
        store: id of the store; empty if none was used.
        change: number of its last change that was seen.

    Raises:
        ConfigError: the file cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.store, self.change = "", 0
        self._written = ("", 0)
        try:
            members = json.loads(file.read_bytes())
            self.store, self.change = str(members["store"]), int(members["change"])
        except FileNotFoundError:
            pass
        except OSError as error:
            raise ConfigError(f"cannot read {file}: {error.strerror}; check its owner") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ConfigError(
                f"{file} is damaged; remove it if the database was not rolled back"
            ) from None
        self._written = (self.store, self.change)

    def note(self, store: str, change: int) -> None:
        """Note a change that was seen; it is written by `write`."""
        self.store, self.change = store, max(change, self.change)

    def write(self) -> str:
        """Write the file if the mark has changed; return a problem, empty if there is none."""
        mark = (self.store, self.change)
        if mark == self._written:
            return ""
        new = self.file.with_name(f".tmp-{self.file.name}")
        try:
            self.file.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, json.dumps({"store": mark[0], "change": mark[1]}).encode())
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            new.replace(self.file)
        except OSError as error:
            with suppress(OSError):
                new.unlink()
            return f"cannot write {self.file}: {error.strerror}"
        self._written = mark
        return ""
