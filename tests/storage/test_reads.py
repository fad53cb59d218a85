"""Reads take no lock: they wait for no change, neither of this process nor of another one."""

from __future__ import annotations

import fcntl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.support.stores import document_store, resource_store
from tests.support.tees import PROVING
from verdictd_py.domain.names import KeyId, Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.stores import DirectoryCollateralStore, DirectoryKeyStore

KEY = KeyId.parse("default/key/1")
PATH = ResourcePath.parse("default/resource/1")
POLICY = Name.parse("tdxPolicy.rego")
ABSENT = Name.parse("referenceSets")


class Locked(Exception):
    """A call takes a lock."""


async def test_no_read_takes_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory, _ = prepare(tmp_path, PROVING)
    keys, resources = DirectoryKeyStore(directory), resource_store(directory)
    documents, collateral = document_store(directory), DirectoryCollateralStore(directory)
    await keys.create(KEY, SecretBytes(bytes(32)))
    await resources.put(PATH, SecretBytes(b"content"))
    await collateral.save("x.json", b"{}")

    def locking(*_: object) -> None:
        raise Locked

    for function in ("flock", "lockf", "fcntl"):
        monkeypatch.setattr(fcntl, function, locking)
    reads: tuple[Callable[[], Awaitable[object]], ...] = (
        lambda: keys.get(KEY),
        lambda: keys.describe(KEY),
        lambda: keys.page("", 10),
        lambda: keys.has_prefix("default/"),
        lambda: resources.get(PATH),
        lambda: resources.inspect(PATH),
        lambda: resources.page("", 10),
        lambda: resources.has_prefix("default/"),
        lambda: documents.get(POLICY),
        lambda: documents.snapshot((POLICY, ABSENT)),
        documents.names,
        lambda: collateral.load("x.json"),
        lambda: collateral.states(("x.json",)),
        collateral.names,
    )
    for read in reads:
        assert await read()
    with pytest.raises(Locked):  # the test notices a lock
        await keys.create(KeyId.parse("new"), SecretBytes(bytes(32)))
