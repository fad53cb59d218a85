"""Ports in memory, for tests of the use cases."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from verdictd_py.domain.appraisal import Appraisal, AppraisedPeer
from verdictd_py.domain.evidence import Evidence, VerificationResult, VerifiedEvidence
from verdictd_py.domain.names import KeyId, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import AlreadyExists, NotFound, Reason, RequestError, StorageError
from verdictd_py.ports import ANY, Expected, Failures, Kind, StoredName, StoredObject

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BINDING = b"hash of the key" * 2
REPORT_DATA = BINDING.ljust(64, b"\0")
EVIDENCE = Evidence(tee="tdx", quote=b"quote", binding=BINDING, form="test")
VERIFIED = VerifiedEvidence(
    tee="tdx",
    report_data=REPORT_DATA,
    claims={"mrTd": "ab"},
    tcb_status="UpToDate",
    advisory_ids=(),
    digest="00" * 32,
)


@dataclass
class ScriptedVerifier:
    """Answers what it was told to, and keeps what it was asked."""

    answer: VerificationResult | Exception = VERIFIED
    name: str = "scripted"
    tee: str = "tdx"
    asked: list[tuple[Evidence, datetime]] = field(default_factory=list)

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerificationResult:
        self.asked.append((evidence, now))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@dataclass
class ScriptedPolicy:
    """As the verifier; no reasons mean yes."""

    answer: tuple[Reason, ...] | Exception = ()
    asked: list[tuple[str, Mapping[str, JsonValue]]] = field(default_factory=list)

    async def failures(self, tee: str, claims: Mapping[str, JsonValue]) -> Failures:
        self.asked.append((tee, claims))
        if isinstance(self.answer, Exception):
            raise self.answer
        return Failures.of(self.answer)


@dataclass
class MemoryKeys:
    """A key store that lets others run at every call, as real ones do."""

    keys: dict[KeyId, SecretBytes] = field(default_factory=dict)
    broken: set[KeyId] = field(default_factory=set)
    taken: set[KeyId] = field(default_factory=set)

    async def page(
        self, after: str, limit: int, *, started: int | None = None
    ) -> tuple[StoredName, ...]:
        names = sorted(str(key_id) for key_id in self.keys if str(key_id) > after)
        return tuple(StoredName(name, f"keys/{name}", 32, NOW) for name in names[:limit])

    async def has_prefix(self, prefix: str) -> bool:
        return any(str(key_id).startswith(prefix) for key_id in self.keys)

    async def describe(self, key_id: KeyId) -> StoredName:
        await self.get(key_id)
        return StoredName(str(key_id), f"keys/{key_id}", 32, NOW)

    async def get(self, key_id: KeyId) -> SecretBytes:
        await asyncio.sleep(0)
        if key_id in self.broken:
            raise StorageError(f"the key {key_id} has 31 bytes and cannot be used: a key has 32")
        if key_id not in self.keys:
            raise NotFound(f"there is no key {key_id}")
        return self.keys[key_id]

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        await asyncio.sleep(0)
        if key_id in self.taken:
            raise AlreadyExists(f"the key {key_id} names a resource, not a key")
        if key_id in self.keys:
            raise AlreadyExists(f"the key {key_id} exists already")
        self.keys[key_id] = key

    async def adopt(self, key_id: KeyId) -> None:
        raise NotFound(f"there is no resource {key_id}")  # it has no resources

    async def delete(self, key_id: KeyId) -> None:
        if self.keys.pop(key_id, None) is None:
            raise NotFound(f"there is no key {key_id}")


@dataclass
class MemoryResources:
    """Resources without aliases."""

    contents: dict[ResourcePath, SecretBytes] = field(default_factory=dict)
    broken: set[ResourcePath] = field(default_factory=set)

    async def page(
        self,
        after: str,
        limit: int,
        *,
        started: int | None = None,
        types: Collection[str] | None = None,
    ) -> tuple[StoredName, ...]:
        names = sorted(
            str(path)
            for path in self.contents
            if str(path) > after and (types is None or path.segments[1] in types)
        )
        return tuple(StoredName(name, f"resources/{name}", 1, NOW) for name in names[:limit])

    async def has_prefix(self, prefix: str) -> bool:
        return any(str(path).startswith(prefix) for path in self.contents)

    def file_of(self, path: ResourcePath) -> str:
        return f"resources/{path}"

    async def get(self, path: ResourcePath) -> StoredObject:
        if path in self.broken:
            raise StorageError(f"the resource {path} is not served: a reason")
        if path not in self.contents:
            raise NotFound(f"there is no resource {path}")
        return StoredObject(Kind.RESOURCE, f"resources/{path}", self.contents[path])

    async def inspect(self, path: ResourcePath) -> StoredObject:
        return await self.get(path)

    async def put(
        self, path: ResourcePath, content: SecretBytes, *, expected: Expected = ANY
    ) -> StoredObject:
        if not len(content):
            raise RequestError("empty")
        self.contents[path] = content
        return await self.get(path)

    async def delete(self, path: ResourcePath, *, expected: Expected = ANY) -> None:
        if self.contents.pop(path, None) is None:
            raise NotFound(f"there is no resource {path}")


def accepted_peer() -> AppraisedPeer:
    """A peer as the appraiser would make it."""
    appraisal = Appraisal("0123", NOW, "tdx", "test", VERIFIED, bound=True, refusal=None)
    return AppraisedPeer.of(appraisal, address="192.0.2.1:5")
