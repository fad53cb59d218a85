"""Processes that open one file of sessions at the same time."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.support.events import RecordedEvents
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore


def test_a_new_file_is_opened_by_all_workers_at_once(tmp_path: Path) -> None:
    """SQLite does not wait while another connection sets the mode of the journal."""
    errors: list[Exception] = []
    for number in range(60):
        path, barrier = tmp_path / str(number), threading.Barrier(8)

        def open_it(path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                SqliteSessionStore.open(path, events=RecordedEvents()).close()
            except Exception as error:  # noqa: BLE001  # reported by the test
                errors.append(error)

        threads = [threading.Thread(target=open_it) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
