"""The directory tree of configfs-tsm, with a thread instead of the kernel."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest

Quote = Callable[[bytes], bytes]


class FakeKernel:
    """Creates and removes the files of an entry with the entry, as configfs does.

    `outblob` is a FIFO: its reader waits until the quote for `inblob` is written.
    """

    def __init__(self, root: Path, quote: Quote, *, provider: str = "tdx_guest\n") -> None:
        self.root = root
        self.quote = quote
        self.provider = provider
        self.report_data: list[bytes] = []
        root.mkdir(parents=True)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Patch `mkdir` and `rmdir`, to create and remove an entry's files below the root."""
        mkdir, rmdir = Path.mkdir, Path.rmdir

        def make(path: Path, *arguments: object, **keywords: object) -> None:
            mkdir(path, *arguments, **keywords)  # type: ignore[arg-type]  # passed through
            if path.parent == self.root:
                self._fill(path)

        def remove(path: Path) -> None:
            if path.parent == self.root:
                # Unblock the thread, which may still wait for a reader.
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
            suppress(FileNotFoundError, BrokenPipeError),  # removed without having been read
            (entry / "outblob").open("wb") as stream,  # waits for a reader
        ):
            report_data = (entry / "inblob").read_bytes()
            self.report_data.append(report_data)
            stream.write(self.quote(report_data))
