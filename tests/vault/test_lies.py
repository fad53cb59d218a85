"""A Vault that answers nonsense: each answer is an error with a cause, never an internal error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.secretfiles import write_secret
from tests.support.vault import answer, answering, serving
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError, VerdictdError
from verdictd_py.ports.sealing import DATA_KEY_BYTES
from verdictd_py.vault.client import VaultClient
from verdictd_py.vault.entries import KvEntries
from verdictd_py.vault.keys import TransitKeyStore
from verdictd_py.vault.location import Location
from verdictd_py.vault.resources import KvResourceStore
from verdictd_py.vault.seal import TransitKey

RESOURCE: Final = ResourcePath.parse("team/creds/db")
KEY: Final = KeyId.parse("team/image/1")
CIPHERTEXT: Final = "vault:v1:AAAA"

NO_NAMES: Final[tuple[Any, ...]] = (None, {}, [1], [[]], "text", {"a": 1})

DATA: Final[tuple[Any, ...]] = (
    *(None, [], {}, "text", 7, True),
    {"data": {"value": "\ud800"}, "metadata": {"version": 1}},
    {"data": {"base64": "\u00e9"}, "metadata": {"version": 1}},
    {"data": {"base64": "A"}, "metadata": {"version": 1}},
    {"data": {"value": 7}, "metadata": {"version": 1}},
    {"data": {"value": "x"}, "metadata": {"version": True}},
    {"data": {"value": "x"}, "metadata": {"version": None}},
    {"data": {"value": "x"}, "metadata": [1]},
    {"data": ["value"], "metadata": {"version": 1}},
    {"data": {"transit": "\u00e9"}, "metadata": {"version": 1}},
    *({"keys": keys} for keys in NO_NAMES),
    *({"plaintext": text} for text in ("\u00e9", "A", "", 7, None, "AAAA", "\ud800")),
    *({"ciphertext": text} for text in ("\u00e9", "vault:v0:AAAA", "vault:v1:\ud800", 7)),
    {"type": "aes256-gcm96", "latest_version": True},
    {"type": "aes256-gcm96", "latest_version": 10**400},
    {"type": "aes256-gcm96", "latest_version": -1},
    {"type": ["aes256-gcm96"], "latest_version": 1},
    {"type": {"a": "b"}, "latest_version": 1},
    {"type": "\ud800" * 1000, "latest_version": 1},
)
"""Values of the member `data`."""

Calls = dict[str, Callable[[], Awaitable[object]]]


def calls(client: VaultClient, location: Location) -> Calls:
    """Return everything that reads an answer."""
    entries = KvEntries(client, ("secret",), ("team",))
    resources = KvResourceStore(entries, ("team",), writable=True)
    keys = TransitKeyStore(
        client, KvEntries(client, ("secret",), ("keys",)), ("team",), ("transit", "k"),
        writable=True,
    )  # fmt: skip
    seal = TransitKey(location, client)
    data_key = SecretBytes(bytes(DATA_KEY_BYTES))
    return {
        "get": lambda: resources.get(RESOURCE),
        "put": lambda: resources.put(RESOURCE, SecretBytes(b"x")),
        "page": lambda: resources.page("", 10),
        "delete": lambda: resources.delete(RESOURCE),
        "key": lambda: keys.get(KEY),
        "create": lambda: keys.create(KEY, SecretBytes(bytes(32))),
        "transit": lambda: keys._transit("decrypt", KEY, {"ciphertext": CIPHERTEXT}, "plaintext"),
        "wrap": lambda: seal.wrap(data_key, b"context"),
        "unwrap": lambda: seal.unwrap("vault:transit/kek:v1", b"wrapped", b"context"),
        "check": seal.check,
    }


@pytest.mark.parametrize("status", ["200 OK", "400 Bad Request", "404 Not Found", "204 None"])
async def test_nonsense_is_an_error_with_a_cause(tmp_path: Path, status: str) -> None:
    """Some of it is an answer for one call, and none for the others."""
    body = b"{}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer(body, status=status))
        await writer.drain()

    file = write_secret(tmp_path / "token", "s.token")
    async with serving(serve) as port:
        location = Location.parse(f"http://127.0.0.1:{port}/transit/k?token-file={file}", "--seal")
        client = VaultClient(location)
        for data in DATA:
            body = json.dumps({"data": data}).encode()
            for name, call in calls(client, location).items():
                text = await refusal(call)
                assert text.isprintable(), (name, data)
        await client.close()


async def refusal(call: Callable[[], Awaitable[object]]) -> str:
    """Return the text of the error, empty without one; another error than ours is raised."""
    try:
        await call()
    except VerdictdError as error:
        return str(error)
    return ""


async def test_a_key_that_is_no_text_is_no_internal_error(tmp_path: Path) -> None:
    """Transit answers with a text that is not ASCII, instead of base64."""
    file = write_secret(tmp_path / "token", "s.token")
    entry = {"data": {"data": {"transit": CIPHERTEXT}, "metadata": {"version": 1}}}
    answers: list[object] = [{"data": {}}, entry, {"data": {"plaintext": "\u00e9"}}]
    async with answering(*map(answer, answers)) as origin:
        location = Location.parse(f"{origin}/transit/kek?token-file={file}", "--seal")
        client = VaultClient(location)
        with pytest.raises(StorageError, match="does not have 32 bytes"):
            await calls(client, location)["key"]()
        await client.close()
