"""What operators change in Vault through the broker is recorded before it takes effect."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests.support.events import RecordedEvents
from tests.support.usecases import opened
from tests.support.vault import Engine
from verdictd_py.daemon.usecases import UseCases
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.eventtypes import Audit, Event
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import NotAuthorized, NotFound, StorageError

ADMIN = Caller("admin", ROLES["admin"])
NEW = SecretBytes(b"the new content")

CHANGES: dict[str, tuple[str, Callable[[UseCases], Awaitable[object]]]] = {
    "resource set": (
        "resource.set",
        lambda cases: cases.administration.resources.set(ADMIN, "team/creds/new", NEW),
    ),
    "resource replaced": (
        "resource.set",
        lambda cases: cases.administration.resources.set(ADMIN, "team/creds/db", NEW),
    ),
    "resource deleted": (
        "resource.deleted",
        lambda cases: cases.administration.resources.delete(ADMIN, "team/creds/db"),
    ),
    "key created": (
        "key.created",
        lambda cases: cases.administration.keys.create(ADMIN, "team/image/new"),
    ),
    "key deleted": (
        "key.deleted",
        lambda cases: cases.administration.keys.delete(ADMIN, "team/image/1"),
    ),
}


class Site:
    """Use cases of a broker with a writable backend, and what Vault has below it."""

    def __init__(self, engine: Engine, directory: Path, **backend: object) -> None:
        self.engine = engine
        self.path = f"w{secrets.token_hex(6)}"
        self.recorder = Recorder(self)
        settings = {
            "prefix": "team/",
            "vault": engine.location("secret"),
            "path": f"{self.path}/resources",
            "transit_key": f"transit/{engine.transit_key()}",
            "keys_path": f"{self.path}/keys",
            "writable": True,
            **backend,
        }
        self.cases = opened(directory, self.recorder, resource_backend=(settings,))

    def stored(self) -> dict[str, Any]:
        """Return the data and the version of each entry that may exist."""
        names = ("resources/creds/db", "resources/creds/new", "keys/image/1", "keys/image/new")
        return {name: self._entry(name) for name in names}

    def _entry(self, name: str) -> tuple[object, object]:
        try:
            data = self.engine.call("GET", f"secret/data/{self.path}/{name}")["data"]
        except HTTPError as error:
            with error:
                assert error.code == 404  # noqa: PT017  # with the content of the answer closed
            return None, None
        return data["data"], data["metadata"]["version"]


class Recorder(RecordedEvents):
    """Recorder that fails while `is_full`, and notes what Vault had at each record."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.site = site
        self.is_full = False
        self.before: dict[str, dict[str, Any]] = {}

    async def commit(self, *events: Event) -> None:
        if self.is_full:
            raise StorageError("the audit trail cannot be written")
        for event in events:
            stored = await asyncio.to_thread(self.site.stored)
            self.before.setdefault(event.spec.name, stored)
        await super().commit(*events)


@pytest.fixture
async def site(engine: Engine, tmp_path: Path) -> AsyncIterator[Site]:
    site = Site(engine, tmp_path)
    await site.cases.administration.resources.set(ADMIN, "team/creds/db", SecretBytes(b"old"))
    await site.cases.administration.keys.create(ADMIN, "team/image/1")
    site.recorder.events.clear()
    site.recorder.before.clear()
    yield site
    await site.cases.sources.close()


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_in_vault_is_recorded_before_it_takes_effect(site: Site, name: str) -> None:
    announced, change = CHANGES[name]
    before = site.stored()
    site.recorder.is_full = True
    with pytest.raises(StorageError, match="audit trail"):
        await change(site.cases)
    assert site.stored() == before
    site.recorder.is_full = False
    await change(site.cases)
    assert site.stored() != before
    assert site.recorder.before[announced] == before  # the record came first


async def test_the_record_is_that_of_every_resource(site: Site, tmp_path: Path) -> None:
    """Its size, as for a file: the digest of a password could be searched for the password."""
    await CHANGES["resource set"][1](site.cases)
    assert [event.spec.audit for event in site.recorder.events] == [Audit.YES]
    (fields,) = site.recorder.named("resource.set")
    local = opened(tmp_path / "local", recorder := RecordedEvents())
    await local.administration.resources.set(ADMIN, "team/creds/new", NEW)
    assert recorder.named("resource.set") == [fields]
    text = str(fields)
    assert f"{len(NEW)} secret bytes" in text
    assert NEW.reveal().decode() not in text
    assert hashlib.sha256(NEW.reveal()).hexdigest() not in text


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_that_vault_refuses_leaves_a_record_of_the_failure(
    site: Site, engine: Engine, tmp_path: Path, name: str
) -> None:
    """Its token may read, and no more."""
    announced, change = CHANGES[name]
    policy = engine.policy(
        f"secret/data/{site.path}/* read", "transit/keys/* read", "transit/encrypt/* update"
    )
    token = engine.file("read-only", engine.token(policy))
    before = site.stored()
    reading = Site(
        engine,
        tmp_path / "reading",
        vault=engine.location("secret", f"token-file={token}"),
        path=f"{site.path}/resources",
        keys_path=f"{site.path}/keys",
    )
    try:
        with pytest.raises(StorageError, match="Vault denies access"):
            await change(reading.cases)
    finally:
        await reading.cases.sources.close()
    assert site.stored() == before
    names = [event.spec.name for event in reading.recorder.events]
    assert (names[0], names[-1]) == (announced, "change.failed")
    (failed,) = reading.recorder.named("change.failed")
    assert (failed["caller"], failed["change"], failed["code"]) == ("admin", announced, "storage")


@pytest.mark.parametrize("name", CHANGES)
async def test_a_change_of_a_backend_that_is_read_only_is_refused_and_recorded(
    site: Site, engine: Engine, tmp_path: Path, name: str
) -> None:
    reading = Site(
        engine,
        tmp_path / "reading",
        writable=False,
        path=f"{site.path}/resources",
        keys_path=f"{site.path}/keys",
    )
    before = site.stored()
    with pytest.raises(NotAuthorized, match="read only here"):
        await CHANGES[name][1](reading.cases)
    await reading.cases.sources.close()
    assert site.stored() == before
    assert reading.recorder.names[-1] == "change.failed"


async def test_what_is_absent_is_not_deleted(site: Site) -> None:
    with pytest.raises(NotFound):
        await site.cases.administration.resources.delete(ADMIN, "team/creds/none")
    assert not site.recorder.events
