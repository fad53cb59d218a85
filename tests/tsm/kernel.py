"""The directory tree of configfs-tsm, with a thread in the place of the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

Quote = Callable[[bytes], bytes]


class FakeKernel:
    """Makes the files of an entry when it is made, and removes them with it, as configfs does.

    `outblob` is a FIFO: whoever reads it waits until the quote for `inblob` is there.
    """

    def __init__(self, root: Path, quote: Quote, *, provider: str = "tdx_guest\n") -> None:
        self.root = root
        self.quote = quote
        self.provider = provider
        self.asked: list[bytes] = []
        root.mkdir(parents=True)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """From now on every `mkdir` and `rmdir` below the root is the kernel's too."""
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(path: Path, *arguments: object, **more: object) -> None:
            mkdir(path, *arguments, **more)  # type: ignore[arg-type]  # handed on
            if path.parent == self.root:
                self._fill(path)

        def remove(path: Path) -> None:
            if path.parent == self.root:
                # A thread that still waits for a reader is let go.
                reader = os.open(path / "outblob", os.O_RDONLY | os.O_NONBLOCK)
                for file in path.iterdir():
                    file.unlink()
                os.close(reader)
            rmdir(path)

        patch.setattr(Path, "mkdir", make)
        patch.setattr(Path, "rmdir", remove)

    def _fill(self, entry: Path) -> None:
        (entry / "provider").write_text(self.provider)
        (entry / "inblob").write_bytes(b"")
        os.mkfifo(entry / "outblob")
        Thread(target=self._answer, args=(entry,), daemon=True).start()

    def _answer(self, entry: Path) -> None:
        with (
            suppress(FileNotFoundError, BrokenPipeError),  # nobody ever read, and it is gone
            (entry / "outblob").open("wb") as stream,  # waits for a reader
        ):
            report_data = (entry / "inblob").read_bytes()
            self.asked.append(report_data)
            stream.write(self.quote(report_data))
