"""Entries of documents that have no effect are reported."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from tests.support.tees import TEES
from verdictd_py.broker.ineffective import IneffectiveEntries
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import StorageError
from verdictd_py.storage.memory import MemoryDocumentStore, MemoryKeyStore, MemoryResourceStore

SECRET = SecretBytes(bytes(32))


async def remarks(**texts: str) -> dict[str, str]:
    keys, resources = MemoryKeyStore(), MemoryResourceStore()
    await keys.create(KeyId.parse("team-a/key/1"), SECRET)
    await keys.create(KeyId.parse("zone"), SECRET)
    await resources.put(ResourcePath.parse("db/password/1"), SECRET)
    entries = IneffectiveEntries(MemoryDocumentStore(TEES, texts), TEES, keys, resources)
    return dict(await entries.remarks())


async def remark_about_prefix(prefix: str) -> str:
    found = await remarks(releasePolicies=json.dumps({prefix: "team.rego"}))
    return found.get("releasePolicies", "")


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "k", "keys/", "keys/team-a", "keys/team-a/key/1", "keys/zone", "keys/z"),
        *("db/", "db/password/1", "d", "default/credential/", "default/"),
    ],
)
async def test_a_prefix_of_a_secret_has_an_effect(prefix: str) -> None:
    assert await remark_about_prefix(prefix) == ""


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("team-a/", "; did you mean 'keys/team-a/'?"),
        ("zone", "; did you mean 'keys/zone'?"),
        *(("Team-a/", ""), ("keys/team-b/", ""), ("db/password/12", ""), ("keys/zone/", "")),
    ],
)
async def test_a_prefix_that_no_secret_has_is_reported(prefix: str, remedy: str) -> None:
    """The release policy for it guards nothing: the key is released by another policy."""
    expected = f"no secret has a path that begins with '{prefix}'{remedy}"
    assert await remark_about_prefix(prefix) == expected


async def test_a_set_under_an_unknown_tee_is_reported() -> None:
    made = ReferenceSet({"mrTd": ("aa" * 48,)}, "a", datetime(2026, 1, 1, tzinfo=UTC)).as_json()
    stored = json.dumps({"tdx-guests": {"prod": made}, "tdx": {"prod": made}})
    assert await remarks(referenceSets=stored) == {
        "referenceSets": "no TEE has the name 'tdx-guests': these sets pin nothing"
    }


async def test_documents_that_are_absent_or_broken_have_no_remark() -> None:
    assert await remarks() == {}
    assert await remarks(releasePolicies="{", referenceSets="{}") == {}


async def test_a_store_that_cannot_be_listed_is_not_a_remark() -> None:
    class Unlistable(MemoryKeyStore):
        async def has_prefix(self, prefix: str) -> bool:
            raise StorageError("the keys cannot be listed")

    texts = {"releasePolicies": '{"keys/x": "team.rego"}'}
    entries = IneffectiveEntries(
        MemoryDocumentStore(TEES, texts), TEES, Unlistable(), MemoryResourceStore()
    )
    assert await entries.remarks() == {}
