"""Attack: `http_proxy` in the environment of an operator receives the secrets of gRPC calls."""

from __future__ import annotations

import ast
import asyncio
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import RunningBroker
from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py._generated import verdictd_v1_pb2_grpc as services
from verdictd_py.cli.management.client import Connection
from verdictd_py.config import Address

SOURCE: Final = Path(__file__).parents[2] / "verdictd_py"
HELPER: Final = SOURCE / "cli" / "channels.py"
CONSTRUCTORS: Final = {"insecure_channel", "secure_channel"}


async def test_a_proxy_in_the_environment_receives_no_call(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = 0

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    proxy = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = proxy.sockets[0].getsockname()[1]
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    async with proxy, Connection((Address.parse(broker.client_api),), 60).channel() as channel:
        await services.KeyServiceStub(channel).ListKeys(messages.ListKeysRequest(), timeout=60)
    assert connections == 0


def test_every_channel_is_made_by_the_helper() -> None:
    others = {
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if path != HELPER and "_generated" not in path.parts
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Attribute) and node.func.attr in CONSTRUCTORS)
            or (isinstance(node.func, ast.Name) and node.func.id in CONSTRUCTORS)
        )
    }
    assert not others
