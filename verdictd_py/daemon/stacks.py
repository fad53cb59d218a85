"""Where each task of the daemon waits, for an operator who looks for one that hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import FrameType
from typing import Final

from verdictd_py.domain.events import DaemonTasks
from verdictd_py.ports import Events

_MOST_FRAMES: Final = 8


def dump_tasks(events: Events) -> None:
    """Record every task with its innermost functions and lines; without values, for no secret."""
    tasks = sorted(f"{task.get_name()}: {_where(task)}" for task in asyncio.all_tasks())
    events.record(DaemonTasks(tasks=tuple(tasks)))


def _where(task: asyncio.Task[object]) -> str:
    frames = [f"{frame.f_code.co_qualname}:{frame.f_lineno}" for frame in _frames(task.get_coro())]
    return " > ".join(frames[-_MOST_FRAMES:])


def _frames(awaited: object) -> Iterator[FrameType]:
    """Yield the frames of a chain of coroutines, the innermost last."""
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is None:
            return
        yield frame
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
