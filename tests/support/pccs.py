"""A PCCS on loopback that can be told to be slow, dead, wrong, or endless."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from verdictd_py import daemon as app
from verdictd_py.simulator import SimulatedPlatform, pcs_answer
from verdictd_py.simulator.pcs import PcsAnswer

Change = Callable[[str, PcsAnswer], PcsAnswer]


def unchanged(path: str, answer: PcsAnswer) -> PcsAnswer:
    del path
    return answer


@dataclass
class Pccs:
    """What it answers, and what it was asked.

    Attributes:
        change: does something to each answer, given the path.
        asked: how often each path.
        stalled: while it is set, answers wait for `go_on`.
    """

    platform: SimulatedPlatform
    url: str = ""
    clock: Callable[[], datetime] = app.utc_now
    change: Change = unchanged
    asked: Counter[str] = field(default_factory=Counter)
    stalled: bool = False
    endless: bool = False
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    headers: list[str] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request of one connection."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.headers.append(head)
            target = head.split(" ")[1]
            path = urlsplit(target).path
            self.asked[path] += 1
            if self.stalled:
                await self.go_on.wait()
            found = self.change(path, pcs_answer(self.platform, target, self.clock()))
            lines = [f"HTTP/1.1 {found.status} X", "connection: close"]
            lines += [f"{name}: {value}" for name, value in found.headers.items()]
            if not self.endless:
                lines.append(f"content-length: {len(found.body)}")
            writer.write("\r\n".join([*lines, "", ""]).encode() + found.body)
            while self.endless:
                writer.write(bytes(65536))
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has seen enough
        finally:
            writer.close()


@asynccontextmanager
async def running_pccs(
    platform: SimulatedPlatform, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Pccs]:
    """Serves the platform's collateral on a free port."""
    pccs = Pccs(platform)
    server = await asyncio.start_server(pccs.answer, "127.0.0.1", 0, ssl=tls)
    async with server:
        pccs.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield pccs
        pccs.go_on.set()
        pccs.endless = False
