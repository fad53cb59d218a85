"""Measure the worst stall of the broker's event loop for every type of input.

Usage: python -m benchmarks.stalls [--repeats N] [--only TEXT] [--stacks]

The broker runs in a process of its own. For each input, the program prints the longest round of
the event loop in CPU time (median and worst of the repeats). The column "timer" is the largest
delay of a timer on that loop, of the repeat in which it was smallest. It is wall time: it contains
the time for which other threads hold the interpreter lock, and other programs the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.processes import CHECKOUT
from tests.support.kbs import running_kbs
from tests.support.kbs_admins import AdminTokens
from tests.support.pccs import running_pccs, unchanged
from tests.support.stall_inputs import (
    MIB,
    PROXIES,
    Input,
    Target,
    inputs,
    store_much,
)
from tests.support.stalls import LoopMeter
from verdictd_py import daemon as app
from verdictd_py.daemon.process import favour_event_loop
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.simulator.pcs import PcsAnswer

LIMIT_MS: Final = 20.0


async def serve(directory: Path, *, collateral_url: str | None, much: bool, stacks: bool) -> None:
    """Run a broker, and answer each line of the standard input with a line of JSON."""
    loop = asyncio.get_running_loop()
    meter = LoopMeter(loop)
    if stacks:
        meter.watch(LIMIT_MS / 1000, lambda text: print(text, file=sys.stderr, flush=True))
    commands: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: commands.put_nowait(sys.stdin.readline().strip()))
    platform = SimulatedPlatform.load(directory / "platform")
    admins = directory / "admins" / "admins.toml"
    settings: dict[str, Any] = {"kbs_admins": admins, **INSECURE, **PROXIES}

    def starting(data: Path) -> None:
        if much:
            store_much(data)
        meter.start()

    if collateral_url is not None:
        settings |= {"collateral": None, "collateral_url": (collateral_url,)}
    favour_event_loop()
    beat = asyncio.create_task(meter.beat())
    own = directory / str(os.getpid())
    async with running_kbs(own, platform, starting=starting, **settings) as broker:
        where = {
            "guests": broker.address,
            "kbs": broker.kbs.endpoint,
            "client_api": broker.client_api,
            "data": str(broker.data),
            "now": broker.now.isoformat(),
        }
        print(json.dumps(where), flush=True)
        while (command := await commands.get()) != "":
            if command == "reload":
                await broker.daemon.reload()
            answer = {"cpu": meter.cpu_seconds, "late": meter.late_seconds}
            if command == "reset":
                await asyncio.sleep(0.05)
                meter.reset()
            print(json.dumps(answer), flush=True)
        beat.cancel()


INSECURE: Final[dict[str, Any]] = {"unsafe": {"insecure_kbs_http": True}}


async def _nothing(target: Target) -> None:
    """Send nothing: a broker starts by itself."""
    del target


START: Final = Input("operator", "start: 5,000 keys, 30,000 reference values", 3_300_000, _nothing)


class Broker:
    """The process with the broker."""

    def __init__(
        self,
        directory: Path,
        *,
        collateral_url: str = "",
        much: bool = False,
        stacks: bool = False,
    ) -> None:
        command = [sys.executable, "-m", "benchmarks.stalls", "--serve", str(directory)]
        command += ["--collateral-url", collateral_url] if collateral_url else []
        command += ["--much"] if much else []
        self._process = subprocess.Popen(
            [*command, *(["--stacks"] if stacks else [])],
            cwd=CHECKOUT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stdin: Any = self._process.stdin
        self._stdout: Any = self._process.stdout
        self.where = self._read()

    def command(self, name: str) -> dict[str, Any]:
        self._stdin.write(name + "\n")
        self._stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        while True:
            line = self._stdout.readline()
            if not line:
                raise SystemExit("the broker ended")
            if line.startswith("{"):
                return dict(json.loads(line))

    def close(self) -> None:
        self._stdin.close()
        self._process.wait(30)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--only", default="", help="inputs whose name or sender contains this")
    arguments.add_argument("--stacks", action="store_true", help="print stacks of long rounds")
    arguments.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments.add_argument("--collateral-url", help=argparse.SUPPRESS)
    arguments.add_argument("--much", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.serve:
        url = chosen.collateral_url
        asyncio.run(serve(chosen.serve, collateral_url=url, much=chosen.much, stacks=chosen.stacks))
        return 0
    with tempfile.TemporaryDirectory() as name:
        return measure(Path(name), chosen.repeats, chosen.only, stacks=chosen.stacks)


def measure(directory: Path, repeats: int, only: str, *, stacks: bool) -> int:
    """Print the table; return 1 if a round was too long."""
    platform = SimulatedPlatform.create(now=app.utc_now())
    platform.save(directory / "platform")
    admins = AdminTokens(directory / "admins")
    broker = Broker(directory, stacks=stacks)
    target = _target(broker, platform, admins)
    print(f"{'sender':14} {'input':42} {'bytes':>9} {'median':>8} {'worst':>8} {'timer':>8}")
    slow = 0
    for each in inputs():
        if only not in f"{each.sender} {each.name}":
            continue
        if each.prepare is not None:
            each.prepare(target)
        send(each, target)  # the first one compiles and caches
        slow += _row(each, [_measured(broker, each, target) for _ in range(repeats)])
    broker.close()
    if only in "PCCS collateral":
        slow += asyncio.run(_collateral(directory, platform, admins, stacks=stacks))
    if only in "operator start":
        slow += _row(START, [_started(directory, stacks=stacks) for _ in range(repeats)])
    return 1 if slow else 0


def _started(directory: Path, *, stacks: bool) -> tuple[float, float]:
    """Start a broker with a large data directory; return its measurements as `_measured`."""
    broker = Broker(directory, much=True, stacks=stacks)
    result = broker.command("report")
    broker.close()
    return 1000 * result["cpu"], 1000 * result["late"]


async def _collateral(
    directory: Path, platform: SimulatedPlatform, admins: AdminTokens, *, stacks: bool
) -> int:
    """Measure answers of a PCCS; each broker fetches them once."""
    slow = 0
    guest = next(each for each in inputs() if each.name == "certificate")
    for name, change in (("collateral", unchanged), ("collateral, padded to 1 MiB", padded)):
        async with running_pccs(platform) as pccs:
            pccs.change = change
            broker = Broker(directory, collateral_url=pccs.url, stacks=stacks)
            target = _target(broker, platform, admins)
            size = 20_000 if change is unchanged else 2 * MIB
            row = Input("PCCS", name, size, guest.send)
            result = await asyncio.to_thread(_measured, broker, row, target)
            slow += _row(row, [result])
            broker.close()
    return slow


def padded(path: str, answer: PcsAnswer) -> PcsAnswer:
    """Return an answer whose text has the maximum size, so that its signature is wrong."""
    del path
    body = answer.body
    if not body.startswith(b"{"):
        return answer
    at = body.index(b":") + 2
    return replace(
        answer, body=body[:at] + b'"x":"' + b"x" * (MIB - len(body) - 10) + b'",' + body[at:]
    )


def _target(broker: Broker, platform: SimulatedPlatform, admins: AdminTokens) -> Target:
    where = broker.where

    async def reload() -> None:
        await asyncio.to_thread(broker.command, "reload")

    return Target(
        guests=tuple(where["guests"]),
        kbs=where["kbs"],
        client_api=where["client_api"],
        platform=platform,
        now=datetime.fromisoformat(where["now"]),
        admins=admins,
        data=Path(where["data"]),
        reload=reload,
    )


def _measured(broker: Broker, each: Input, target: Target) -> tuple[float, float]:
    """Send an input once; return CPU time of the longest round, and delay of the timer, in ms."""
    broker.command("reset")
    send(each, target)
    result = broker.command("report")
    return 1000 * result["cpu"], 1000 * result["late"]


def send(each: Input, target: Target) -> None:
    """Send an input on a loop of its own."""

    async def sending() -> None:
        await each.send(target)

    asyncio.run(sending())


def _row(each: Input, results: list[tuple[float, float]]) -> bool:
    """Print the results of an input; return whether a round was too long."""
    cpu, late = [first for first, _ in results], [second for _, second in results]
    print(
        f"{each.sender:14} {each.name:42} {each.size:9,} "
        f"{statistics.median(cpu):8.1f} {max(cpu):8.1f} {min(late):8.1f}",
        flush=True,
    )
    return max(cpu) > LIMIT_MS


if __name__ == "__main__":
    sys.exit(main())
