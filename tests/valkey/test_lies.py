"""A Valkey that answers nonsense, without end, or with what was sent to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conformance.sessions import END, NOW, name
from tests.support.secretfiles import write_secret
from tests.support.valkey import needs_valkey, running_valkey
from tests.support.vault import serving
from verdictd_py.engineurls import EngineUrl
from verdictd_py.errors import StorageError
from verdictd_py.valkey.parsing import MAX_ANSWER_BYTES
from verdictd_py.valkey.sessions import ValkeySessionStore

PASSWORD = "correct-horse-7f21"

NONSENSE: dict[str, bytes] = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "an empty line": b"\r\n",
    "a length that is no number": b"$abc\r\n",
    "a negative length": b"$-5\r\n",
    "a number that is none": b":abc\r\n",
    "a large number": b":" + b"9" * 5000 + b"\r\n",
    "an array without a number": b"*abc\r\n",
    "a negative array": b"*-7\r\n",
    "arrays in arrays": b"*1\r\n" * 20_000,
    "a map of RESP3": b"%1\r\n+a\r\n+b\r\n",
    "a line without end": b"+" + b"a" * 200_000,
    "a number": b":7\r\n",
    "nothing": b"$-1\r\n",
    "too few values": b"*1\r\n$1\r\na\r\n",
    "values of another kind": b"*2\r\n$1\r\na\r\n$1\r\nb\r\n",
    "an answer about another name": b"*2\r\n$5\r\nother\r\n$7\r\ncontent\r\n",
    "an error that is no text": b"-\xff\xfe\r\n",
    "a content without end": b"$99999999999\r\n" + bytes(65_536),
    "an array without end": b"*1000000000\r\n" + b":1\r\n" * 100_000,
}


@pytest.mark.parametrize("answer", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_is_an_error_with_a_cause(answer: bytes) -> None:
    """Never an internal error, in a guest's request or in the check of the health."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65_536):
            writer.write(answer)

    async with serving(serve) as port:
        store = ValkeySessionStore.open(EngineUrl.parse(f"valkey://127.0.0.1:{port}"))
        calls: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: store.token(name(1), now=NOW),
            lambda: store.take_challenge(name(1), now=NOW),
            lambda: store.add_token(name(1), "token", now=NOW, expires=END),
            lambda: store.add_claims(name(1), "claims", now=NOW, expires=END),
        )
        for call in calls:
            with pytest.raises(StorageError, match="the sessions cannot be used") as refused:
                await call()
            assert str(refused.value).isprintable()
        assert "the sessions cannot be used" in await store.fault()
        assert store.counts == (0, 0)
        await store.close()


async def test_an_answer_without_end_does_not_fill_the_memory() -> None:
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.read(65_536)
        writer.write(b"$99999999999\r\n")
        while True:
            writer.write(bytes(65_536))
            await writer.drain()
            sent += 65_536

    async with serving(serve) as port:
        store = ValkeySessionStore.open(EngineUrl.parse(f"valkey://127.0.0.1:{port}"))
        with pytest.raises(StorageError, match="too large"):
            await store.token(name(1), now=NOW)
        await store.close()
    assert sent < 4 * MAX_ANSWER_BYTES


@needs_valkey
async def test_the_largest_token_and_claims_are_read(tmp_path: Path) -> None:
    content = "x" * (MAX_ANSWER_BYTES - 1000)
    with running_valkey(tmp_path / "valkey") as server:
        store = ValkeySessionStore.open(EngineUrl.parse(server.url), call_seconds=60)
        await store.add_claims(name(1), content, now=NOW, expires=END)
        assert await store.claims(name(1), now=NOW) == content
        await store.close()


@needs_valkey
async def test_a_server_that_repeats_the_password_does_not_bring_it_into_the_log(
    tmp_path: Path,
) -> None:
    """`ERR unknown command 'AUTH', with args beginning with: 'PASSWORD'`."""
    file = write_secret(tmp_path / "password", PASSWORD)
    renamed = ("--requirepass", PASSWORD, "--rename-command", "AUTH", "hidden")
    with running_valkey(tmp_path / "valkey", *renamed) as server:
        assert PASSWORD in server.command("AUTH", PASSWORD)
        store = ValkeySessionStore.open(EngineUrl.parse(f"{server.url}?password_file={file}"))
        with pytest.raises(StorageError, match="refuses") as refused:
            await store.token(name(1), now=NOW)
        assert PASSWORD not in str(refused.value)
        assert PASSWORD not in await store.fault()
        await store.close()
