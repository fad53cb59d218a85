"""`--watch` and progress of the real command: what changes is appended, Ctrl-C is a clean end."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from pathlib import Path

import pytest

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.command import environment
from tests.support.verdict import verdict
from tools.transcript import on_terminal


@pytest.mark.usefixtures("interruptible")
async def test_a_list_is_watched_until_ctrl_c(broker: RunningBroker) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.verdict", "-c", broker.client_api),
        *("key", "list", "--watch", "--interval", "1", "-o", "json"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        changes = []
        first = json.loads(await process.stdout.readline())
        (broker.data / "keys" / "new").write_bytes(KEY)
        changes.append(json.loads(await process.stdout.readline()))
        (broker.data / "keys" / "new").unlink()
        changes.append(json.loads(await process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
        assert (await process.stdout.read(), await process.stderr.read()) == (b"", b"")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert (first["change"], first["item"]["name"]) == ("added", KID)
    assert [(each["change"], each["item"]["name"]) for each in changes] == [
        ("added", "new"),
        ("removed", "new"),
    ]


@pytest.mark.parametrize("text", ["0", "0.5", "nan", "3601", "x"])
async def test_the_rate_is_bounded(text: str) -> None:
    ended = await verdict("127.0.0.1:9", "key", "list", "--watch", "--interval", text)
    assert "write seconds from 1 to 3600" in ended.complaint(2, "verdict-py key list")


async def test_only_what_changes_by_itself_can_be_watched() -> None:
    ended = await verdict("127.0.0.1:9", "key", "describe", "x", "--watch")
    assert "--watch" in ended.complaint(2, ended.stderr.partition(": ")[0])


def test_a_broker_that_hangs_is_reported_on_the_terminal(tmp_path: Path) -> None:
    """The server accepts connections and answers nothing, so that the command waits."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = f"verdict-py -c {address} --timeout 10 --unsafe-any-server key list"
        status, text = on_terminal(command, tmp_path, {})
    assert status == 3
    progress, _, error = text.rpartition("\r\x1b[K")
    assert f"\r\x1b[Kwaiting for the broker at {address}, 2 s" in progress
    assert error.startswith("verdict-py: ")
