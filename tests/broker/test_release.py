"""Releases to a guest: all or nothing, and never without a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from tests.support.events import RecordedEvents
from tests.support.memory import MemoryKeys, MemoryResources, accepted_peer
from verdictd_py.broker import ciphers
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.eventtypes import Event
from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.errors import (
    DecryptionFailed,
    NotAuthorized,
    NotFound,
    Reason,
    RequestError,
    StorageError,
    StoreUnavailable,
    VerdictdError,
)
from verdictd_py.ports import NO_QUERY, Failures, Kind, PolicyDocuments, StoredObject

ONE, TWO, BROKEN, MISSING = (
    KeyId.parse(name) for name in ("one", "default/key/2", "broken", "default/key/none")
)
KEYS = {ONE: SecretBytes(b"1" * 32), TWO: SecretBytes(b"2" * 32)}
PEER = accepted_peer()
DOCUMENTS = PolicyDocuments("package policy", "{}")
PATH = ResourcePath.parse("repo/type/tag")
PLAIN = SecretBytes(b'{"symkey":"of a layer"}')
GCM, CTR = Algorithm.AES_GCM, Algorithm.A256CTR


class RefusesToRecord(RecordedEvents):
    """An audit trail whose disk is full."""

    def record(self, event: Event) -> None:
        raise StorageError("the audit trail cannot be written")


@dataclass
class ScriptedRelease:
    """A release policy that refuses some paths, and some kinds, to every guest."""

    refused: frozenset[str] = frozenset()
    asked: list[tuple[AppraisedPeer, Kind, str]] = field(default_factory=list)

    async def failures(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> Failures:
        self.asked.append((peer, kind, path))
        kept = path in self.refused or kind.value in self.refused
        reasons = [Reason("release", "", "", f"not {path}")] if kept else ()
        return Failures.of(reasons, DOCUMENTS)


def releaser(
    events: RecordedEvents | None = None,
    *,
    allow_a256ctr: bool = False,
    refused: frozenset[str] = frozenset(),
) -> Releaser:
    return Releaser(
        keys=MemoryKeys(dict(KEYS), broken={BROKEN}),
        resources=MemoryResources({PATH: SecretBytes(b"content")}),
        policy=ScriptedRelease(refused),
        events=RecordedEvents() if events is None else events,
        allow_a256ctr=allow_a256ctr,
    )


def blob(
    key_id: KeyId = ONE,
    algorithm: Algorithm = GCM,
    *,
    key: SecretBytes | None = None,
    plain: SecretBytes = PLAIN,
) -> WrappedBlob:
    iv = bytes(range(algorithm.iv_bytes))
    key = key or KEYS.get(key_id, KEYS[ONE])
    return WrappedBlob(key_id, algorithm, iv, ciphers.encrypt(algorithm, key, iv, plain))


def changed(good: WrappedBlob, *, iv: bytes | None = None, at: int | None = None) -> WrappedBlob:
    ciphertext = bytearray(good.ciphertext)
    if at is not None:
        ciphertext[at] ^= 1
    return WrappedBlob(
        good.key_id, good.algorithm, good.iv if iv is None else iv, bytes(ciphertext)
    )


async def test_plaintexts_are_in_order_and_one_request_is_one_record() -> None:
    events = RecordedEvents()
    other = SecretBytes(b"other")
    found = await releaser(events).decrypt(PEER, [blob(), blob(TWO, plain=other), blob()])
    assert found == (PLAIN, other, PLAIN)
    assert events.named("secret.released") == [
        {
            "peer": PEER.address,
            "appraisal": PEER.appraisal_id,
            "tee": PEER.tee,
            "what": "image-key",
            "path": "keys/one",
            "paths": ("keys/one", "keys/default/key/2"),
            "policy": DOCUMENTS.decided_by.policy,
            "data": DOCUMENTS.decided_by.data,
        }
    ]


BAD = [
    (blob(MISSING), NotFound, "there is no key default/key/none"),
    (blob(BROKEN), StorageError, "the key broken has 31 bytes"),
    (changed(blob(), iv=b""), RequestError, "one: the iv is 0 bytes long, 12 are needed"),
    (changed(blob(), iv=bytes(16)), RequestError, "one: the iv is 16 bytes long, 12 are needed"),
    (changed(blob(), iv=bytes(12)), DecryptionFailed, "one: authentication failed"),
    (changed(blob(), at=0), DecryptionFailed, "one: authentication failed"),
    (changed(blob(), at=-1), DecryptionFailed, "one: authentication failed"),
    (blob(TWO, key=KEYS[ONE]), DecryptionFailed, "default/key/2: authentication failed"),
    (WrappedBlob(ONE, GCM, bytes(12), b""), DecryptionFailed, "one: authentication failed"),
    (WrappedBlob(ONE, GCM, bytes(12), bytes(15)), DecryptionFailed, "one: authentication failed"),
    (blob(ONE, CTR), RequestError, "one: A256CTR authenticates nothing and is off"),
]


@pytest.mark.parametrize(("bad", "kind", "text"), BAD)
@pytest.mark.parametrize("position", [0, 1, 2])
async def test_an_invalid_blob_fails_the_request_and_is_named(
    bad: WrappedBlob, kind: type[VerdictdError], text: str, position: int
) -> None:
    """defects.md 3: the original answers OK with the plaintext `[0]`."""
    events = RecordedEvents()
    blobs = [blob(), blob(TWO)]
    blobs.insert(position, bad)
    with pytest.raises(kind) as refused:
        await releaser(events).decrypt(PEER, blobs)
    assert str(refused.value).startswith(text)
    assert events.events == []


async def test_ctr_is_decrypted_if_the_operator_allows_it() -> None:
    found = await releaser(allow_a256ctr=True).decrypt(PEER, [blob(ONE, CTR), blob(TWO)])
    assert found == (PLAIN, PLAIN)
    with pytest.raises(RequestError, match="one: the iv is 12 bytes long, 16 are needed"):
        await releaser(allow_a256ctr=True).decrypt(PEER, [changed(blob(ONE, CTR), iv=bytes(12))])


async def test_ctr_is_off_by_default() -> None:
    tested = Releaser(
        keys=MemoryKeys(dict(KEYS)),
        resources=MemoryResources(),
        policy=ScriptedRelease(),
        events=RecordedEvents(),
    )
    with pytest.raises(RequestError, match="A256CTR authenticates nothing and is off"):
        await tested.decrypt(PEER, [blob(ONE, CTR)])


async def test_a_packet_relabelled_as_ctr_is_refused() -> None:
    """An attacker with the image could strip the tag and change the ciphertext."""
    good = blob()
    relabelled = WrappedBlob(ONE, CTR, good.iv + b"\0\0\0\2", good.ciphertext[:-16])
    with pytest.raises(RequestError, match="A256CTR"):
        await releaser().decrypt(PEER, [relabelled])
    assert await releaser(allow_a256ctr=True).decrypt(PEER, [relabelled]) == (PLAIN,)


async def test_keks_are_in_order_and_one_request_is_one_record() -> None:
    events = RecordedEvents()
    assert await releaser(events).keks(PEER, [TWO, ONE]) == (KEYS[TWO], KEYS[ONE])
    (fields,) = events.named("secret.released")
    assert (fields["what"], fields["paths"]) == ("kek", ("keys/default/key/2", "keys/one"))


@pytest.mark.parametrize(("bad", "kind"), [(MISSING, NotFound), (BROKEN, StorageError)])
async def test_an_invalid_kek_fails_the_request_and_is_named(
    bad: KeyId, kind: type[VerdictdError]
) -> None:
    for key_ids in ([bad, ONE], [ONE, bad]):
        events = RecordedEvents()
        with pytest.raises(kind, match=str(bad)):
            await releaser(events).keks(PEER, key_ids)
        assert events.events == []


async def test_a_resource_is_recorded_when_it_is_released() -> None:
    """A request for its size releases nothing."""
    events = RecordedEvents()
    tested = releaser(events)
    found = await tested.find(PEER, PATH)
    assert (found.kind, found.path) == (Kind.RESOURCE, "resources/repo/type/tag")
    assert events.events == []
    assert (await tested.release(PEER, found)).reveal() == b"content"
    (fields,) = events.named("secret.released")
    assert (fields["what"], fields["path"]) == (Kind.RESOURCE, found.path)


async def test_a_path_without_a_resource_may_be_a_key() -> None:
    found = await releaser().find(PEER, ResourcePath(TWO.segments))
    assert (found.kind, found.path) == (Kind.KEY, "keys/default/key/2")
    assert found.content == KEYS[TWO]
    with pytest.raises(NotFound, match="there is no resource default/key/none"):
        await releaser().find(PEER, ResourcePath(MISSING.segments))


async def test_a_resource_that_is_not_served_is_not_looked_up_as_a_key() -> None:
    tested = Releaser(
        keys=MemoryKeys({KeyId(PATH.segments): KEYS[ONE]}),
        resources=MemoryResources(broken={PATH}),
        policy=ScriptedRelease(),
        events=RecordedEvents(),
    )
    with pytest.raises(StorageError, match="is not served"):
        await tested.find(PEER, PATH)


async def test_nothing_is_released_without_its_record() -> None:
    """defects.md 17."""
    tested = releaser(RefusesToRecord())
    with pytest.raises(StorageError, match="audit trail"):
        await tested.decrypt(PEER, [blob()])
    with pytest.raises(StorageError, match="audit trail"):
        await tested.keks(PEER, [ONE])
    found = await tested.find(PEER, PATH)
    with pytest.raises(StorageError, match="audit trail"):
        await tested.release(PEER, found)


async def test_an_object_that_the_release_policy_denies_is_not_released() -> None:
    """The policy decides about the stored object, whatever name the guest requests."""
    events = RecordedEvents()
    kept = frozenset({"keys/one", "keys/default/key/2", str(PATH)})
    tested = releaser(events, refused=kept)
    for asked in (
        tested.decrypt(PEER, [blob()]),
        tested.keks(PEER, [ONE]),
        tested.keks(PEER, [TWO]),
        tested.find(PEER, PATH),
        tested.find(PEER, ResourcePath(TWO.segments)),
    ):
        with pytest.raises(NotAuthorized) as caught:
            await asked
        assert str(caught.value) == f"not released to this guest; ask about {PEER.appraisal_id}"
    assert not events.named("secret.released")
    assert events.named("release.refused")[0] == {
        "peer": PEER.address,
        "appraisal": PEER.appraisal_id,
        "tee": PEER.tee,
        "what": Kind.KEY,
        "path": "keys/one",
        "reasons": ("not keys/one",),
        "policy": DOCUMENTS.decided_by.policy,
        "data": DOCUMENTS.decided_by.data,
    }


async def test_one_denied_key_denies_all() -> None:
    events = RecordedEvents()
    tested = releaser(events, refused=frozenset({"keys/default/key/2"}))
    with pytest.raises(NotAuthorized):
        await tested.keks(PEER, [ONE, TWO])
    with pytest.raises(NotAuthorized):
        await tested.decrypt(PEER, [blob(), blob(TWO)])
    assert not events.named("secret.released")


@pytest.mark.parametrize("name", ["default/key/2", "default/key/none"])
async def test_a_denied_object_and_a_missing_one_look_the_same(name: str) -> None:
    """Otherwise a denied guest could find out which secrets exist."""
    events = RecordedEvents()
    tested = releaser(events, refused=frozenset({f"keys/{name}"}))
    key_id = KeyId.parse(name)
    for asked in (
        tested.decrypt(PEER, [blob(key_id)]),
        tested.keks(PEER, [key_id]),
        tested.find(PEER, ResourcePath(key_id.segments)),
    ):
        with pytest.raises(NotAuthorized):
            await asked


@pytest.mark.parametrize("path", LEGACY_RESOURCES.values(), ids=str)
async def test_a_missing_file_for_images_is_denied_like_a_stored_one(
    path: ResourcePath,
) -> None:
    """A policy may refer to the kind, so that a missing file must have the kind of a stored one."""
    tested = releaser(refused=frozenset({"image"}))
    with pytest.raises(NotAuthorized):
        await tested.find(PEER, path)
    with pytest.raises(NotFound):
        await releaser().find(PEER, path)
    with pytest.raises(NotFound):
        await tested.find(PEER, ResourcePath(MISSING.segments))


async def test_the_policy_decides_about_each_kind_of_a_missing_object() -> None:
    """The policy could refuse a missing object as an image's file, as a resource, or as a key."""
    path = LEGACY_RESOURCES["Policy"]
    policy = ScriptedRelease()
    tested = Releaser(
        keys=MemoryKeys(), resources=MemoryResources(), policy=policy, events=RecordedEvents()
    )
    with pytest.raises(NotFound):
        await tested.find(PEER, path)
    assert policy.asked == [
        (PEER, Kind.RESOURCE, str(path)),
        (PEER, Kind.IMAGE, str(path)),
        (PEER, Kind.KEY, f"keys/{path}"),
    ]


@pytest.mark.parametrize("path", [PATH, LEGACY_RESOURCES["Policy"]], ids=str)
async def test_an_unreadable_resource_is_denied_like_a_missing_one(
    path: ResourcePath,
) -> None:
    """An error instead of the denial would disclose that the resource exists."""
    for resources in (MemoryResources(), MemoryResources(broken={path})):
        tested = Releaser(
            keys=MemoryKeys(),
            resources=resources,
            policy=ScriptedRelease(frozenset({str(path), "image", "key"})),
            events=RecordedEvents(),
        )
        with pytest.raises(NotAuthorized) as caught:
            await tested.find(PEER, path)
        assert str(caught.value) == f"not released to this guest; ask about {PEER.appraisal_id}"


class UnavailableResources(MemoryResources):
    """A store that does not answer."""

    async def get(self, path: ResourcePath) -> StoredObject:
        raise StoreUnavailable("the database does not answer")


@pytest.mark.parametrize("kind", [Kind.RESOURCE, Kind.KEY])
async def test_a_store_that_does_not_answer_is_no_denial_to_a_guest_that_may_have_the_object(
    kind: Kind,
) -> None:
    """A guest takes a denial as final (ADR 15), and does not try again after the outage."""
    events = RecordedEvents()
    denied = {one.value for one in Kind} - {kind.value}
    tested = Releaser(
        keys=MemoryKeys(dict(KEYS)),
        resources=UnavailableResources(),
        policy=ScriptedRelease(frozenset(denied)),
        events=events,
    )
    with pytest.raises(StoreUnavailable):
        await tested.find(PEER, PATH)
    assert not events.named("release.refused")


async def test_a_store_that_does_not_answer_is_a_denial_to_all_other_guests() -> None:
    denied = frozenset(kind.value for kind in Kind)
    tested = Releaser(
        keys=MemoryKeys(),
        resources=UnavailableResources(),
        policy=ScriptedRelease(denied),
        events=RecordedEvents(),
    )
    with pytest.raises(NotAuthorized):
        await tested.find(PEER, PATH)


async def test_a_resource_that_cannot_be_served_is_no_denial_to_a_guest_that_may_have_it() -> None:
    """A usual policy allows a path as a resource only, and not the key of the same name."""
    tested = Releaser(
        keys=MemoryKeys(),
        resources=MemoryResources(broken={PATH}),
        policy=ScriptedRelease(frozenset({"key"})),
        events=RecordedEvents(),
    )
    with pytest.raises(StorageError):
        await tested.find(PEER, PATH)


async def test_a_key_that_cannot_be_served_is_denied_to_a_guest_that_may_have_resources_only() -> (
    None
):
    """An error would disclose that the key exists."""
    path = ResourcePath(BROKEN.segments)
    for refused, error in (({"key"}, NotAuthorized), ({"resource"}, StorageError)):
        with pytest.raises(error):
            await releaser(refused=frozenset(refused)).find(PEER, path)


async def test_a_missing_resource_is_denied_like_a_stored_one() -> None:
    tested = releaser(refused=frozenset({"default/secret/none"}))
    with pytest.raises(NotAuthorized):
        await tested.find(PEER, ResourcePath.parse("default/secret/none"))
    with pytest.raises(NotFound):
        await tested.find(PEER, ResourcePath.parse("default/other/none"))
