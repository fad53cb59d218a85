"""Exceptions that no task awaits are recorded as incidents, without their texts."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.support.events import RecordedEvents
from verdictd_py.listeners.errors import exception_handler

SECRET = "9f2c-what-the-exception-says"


async def test_an_exception_of_an_unawaited_task_is_reported_without_its_text(
    capfd: pytest.CaptureFixture[str],
) -> None:
    events = RecordedEvents()
    asyncio.get_running_loop().set_exception_handler(exception_handler(events))

    async def fail() -> None:
        raise RuntimeError(SECRET)

    task = asyncio.create_task(fail())
    await asyncio.wait([task])
    del task
    gc.collect()
    asyncio.get_running_loop().call_exception_handler({"message": SECRET})
    found = events.named("warning.bug")
    assert [(fields["doing"], fields["error"]) for fields in found] == [("run", "RuntimeError")] * 2
    assert SECRET not in events.text
    assert capfd.readouterr() == ("", "")
