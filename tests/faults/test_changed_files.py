"""A changed file is recorded with its digest before it determines a decision."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.events import RecordedEvents
from tests.support.stores import document_store, resource_store
from tests.support.tees import PROVING
from verdictd_py import config
from verdictd_py.config import Unsafe
from verdictd_py.daemon.decidingfiles import DecidingFiles
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.names import Name, parse_resource_name
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, NotFound, StorageError
from verdictd_py.ports import ANY
from verdictd_py.storage.digests import DigestLog
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.layout import prepare

POLICY = Name.parse("tdxPolicy.rego")


@dataclass
class UnwritableTrail(RecordedEvents):
    """Audit trail that can be made unwritable."""

    broken: bool = field(default=False)

    async def commit(self, *events: Event) -> None:
        if self.broken:
            raise StorageError("the audit trail cannot be written")
        await asyncio.sleep(0)  # as a trail that waits for its disk
        await super().commit(*events)


@pytest.fixture
def events() -> UnwritableTrail:
    return UnwritableTrail()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def directory(data: Path) -> Directory:
    return prepare(data, PROVING)[0]


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def test_a_document_that_is_changed_by_hand(
    directory: Directory, data: Path, events: UnwritableTrail
) -> None:
    documents = document_store(directory, events)
    file = data / "opa" / "tdxPolicy.rego"
    before = (await documents.get(POLICY)).text
    await documents.get(POLICY)
    file.write_text("package policy")
    await documents.snapshot([POLICY])
    await documents.get(POLICY)
    assert events.named("file.changed") == [
        {"file": "opa/tdxPolicy.rego", "previous": None, "sha256": sha256(before)},
        {
            "file": "opa/tdxPolicy.rego",
            "previous": sha256(before),
            "sha256": sha256("package policy"),
        },
    ]


async def test_a_document_that_another_process_changes(
    directory: Directory, data: Path, events: UnwritableTrail
) -> None:
    documents, other = document_store(directory, events), document_store(Directory.open(data))
    await documents.get(POLICY)
    await other.put(POLICY, "package policy", expected=ANY)
    await documents.get(POLICY)
    assert events.named("file.changed")[-1]["sha256"] == sha256("package policy")


async def test_a_change_that_cannot_be_recorded_determines_nothing(
    directory: Directory, data: Path, events: UnwritableTrail
) -> None:
    documents = document_store(directory, events)
    await documents.get(POLICY)
    (data / "opa" / "tdxPolicy.rego").write_text("package policy")
    events.broken = True
    for read in (documents.get(POLICY), documents.snapshot([POLICY])):
        with pytest.raises(StorageError, match="audit trail"):
            await read
    events.broken = False
    assert (await documents.get(POLICY)).text == "package policy"


async def test_reads_at_the_same_time_record_a_change_once(events: UnwritableTrail) -> None:
    digests = DigestLog(events)
    await asyncio.gather(*(digests.observe({"opa/tdxData": "ab"}) for _ in range(20)))
    assert len(events.named("file.changed")) == 1


@pytest.mark.parametrize("name", ["referenceSets", "releasePolicies"])
async def test_a_document_that_vanishes_opens_nothing(
    directory: Directory, data: Path, events: UnwritableTrail, name: str
) -> None:
    """A directory is restored file by file, and the absence of this one has a meaning."""
    documents = document_store(directory, events)
    wanted, file = Name.parse(name), data / "opa" / name
    with pytest.raises(NotFound):
        await documents.get(wanted)
    assert await documents.snapshot([wanted]) == {}
    await documents.put(wanted, '{"a": 1}', expected=ANY)
    await documents.get(wanted)
    file.unlink()
    for read in (documents.get(wanted), documents.snapshot([wanted])):
        with pytest.raises(StorageError, match="is missing and was there before; restore it"):
            await read
    file.write_text("{}")
    assert (await documents.get(wanted)).text == "{}"


@pytest.mark.parametrize("name", ["Policy", "Sigstore Config", "Cosign Key", "GPG Keyring"])
async def test_the_policy_and_keys_of_images(
    directory: Directory, events: UnwritableTrail, name: str
) -> None:
    resources, path = resource_store(directory, events), parse_resource_name(name)
    await resources.put(path, SecretBytes(b"content"))
    await resources.get(path)
    (change,) = events.named("file.changed")
    assert change["sha256"] == sha256("content")
    await resources.put(path, SecretBytes(b"another"))
    events.broken = True
    with pytest.raises(StorageError, match="audit trail"):
        await resources.get(path)


async def test_the_digest_of_a_secret_is_not_recorded(
    directory: Directory, events: UnwritableTrail
) -> None:
    resources, path = resource_store(directory, events), parse_resource_name("Credential")
    await resources.put(path, SecretBytes(b"content"))
    await resources.get(path)
    assert events.named("file.changed") == []


async def test_files_of_the_settings(tmp_path: Path, events: UnwritableTrail) -> None:
    toml, admins, key = tmp_path / "v.toml", tmp_path / "admins.toml", tmp_path / "ops.pub"
    toml.write_text(f'kbs_admins = "{admins}"\n')
    admins.write_text('[[key]]\nname = "ops"\npublic_key = "ops.pub"\n')
    key.write_text("one")
    deciding = DecidingFiles(config.load({}, file=toml), Unsafe(), DigestLog(events))
    await deciding.prepare()
    await deciding.prepare()
    assert {change["file"] for change in events.named("file.changed")} == {
        str(toml),
        str(admins),
        str(key),
    }
    key.write_text("other")
    await deciding.prepare()
    assert events.named("file.changed")[3:] == [
        {"file": str(key), "previous": sha256("one"), "sha256": sha256("other")}
    ]
    key.write_text("third")
    events.broken = True
    with pytest.raises(ConfigError, match="cannot be recorded"):
        await deciding.prepare()
