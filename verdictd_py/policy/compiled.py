"""Cache of compiled policies, within a budget of memory and of addresses.

Texts and instances are cached apart: a policy whose instance was released is still known to
compile, and gets another instance when it decides again.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock, RLock
from typing import Final

from verdictd_py.encoding import JsonValue, has_more_values
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import (
    NO_DATA,
    QUICK_FUEL,
    SMALL_VALUES,
    CompiledPolicy,
    Input,
    PolicyResult,
    PreparedInput,
    in_thread,
)
from verdictd_py.policy.instances import MEMORY_BYTES, EngineUnavailable
from verdictd_py.ports import PolicyDocuments

MAX_INSTANCE_BYTES: Final = 256 * 1024 * 1024
"""Memory of all instances that wait for a decision. Measured: 2 MiB for a small policy, so that
the instances of 100 release policies fit."""

MAX_INSTANCES: Final = 128
"""Each reserves `MEMORY_BYTES` of addresses: 8 GiB together, of the 128 TiB of a process."""

MAX_TEXT_BYTES: Final = 64 * 1024 * 1024
"""Policies with their data, of which each may have 4 MiB and a quarter."""

MAX_POLICIES: Final = 1024
"""Policies in the cache, also those that do not compile."""

_SMALL_CHARS: Final = 64 * 1024
"""The first decision of a policy with less text takes well below a millisecond, and is made on the
event loop. Later decisions are made there as long as all of them were quick (`QUICK_FUEL`)."""


@dataclass(slots=True)
class _Entry:
    """A policy, or why it does not compile, with the sizes that count."""

    policy: CompiledPolicy | PolicyInvalid
    text_bytes: int = 0
    instances: int = 0
    idle_bytes: int = 0


class CompiledPolicies:
    """Compiled policies by their text and data, so that each is compiled once.

    The least recently used ones lose their instances, and then their place.
    """

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._idle: OrderedDict[bytes, _Entry] = OrderedDict()
        self._text_bytes = 0
        self._instances = 0
        self._idle_bytes = 0
        self._compiling: dict[bytes, RLock] = {}
        self._lock = Lock()

    def of(self, documents: PolicyDocuments) -> CompiledPolicy:
        """The compiled policy. A failure is stored as well: it fails again without compiling.

        Raises:
            PolicyInvalid: see `CompiledPolicy.compile`; the message begins with the document's
                name.
        """
        return self._of(documents)

    async def evaluate(
        self,
        documents: PolicyDocuments,
        claims: Input,
        data: Mapping[str, JsonValue] = NO_DATA,
    ) -> tuple[CompiledPolicy, PolicyResult]:
        """Evaluate the policy in these documents without blocking the event loop.

        Args:
            data: of this decision, in place of reference data of the same names.

        Raises:
            EvaluationFailed, PolicyInvalid: see `CompiledPolicy.compile` and
                `CompiledPolicy.evaluate`; the message begins with the document's name.
        """
        if is_small(claims):
            compiled = self._stored(documents.digest)
            if isinstance(compiled, CompiledPolicy) and _is_quick(compiled, documents):
                try:
                    result = compiled.evaluate_now(claims, data)
                except PolicyInvalid as error:
                    raise _named(documents, error) from error
                finally:
                    self._account(documents.digest)
                if result is not None:
                    return compiled, result
        return await in_thread(self._evaluate, documents, claims, data)

    def _evaluate(
        self,
        documents: PolicyDocuments,
        claims: Input,
        data: Mapping[str, JsonValue],
    ) -> tuple[CompiledPolicy, PolicyResult]:
        compiled = self._of(documents)
        try:
            return compiled, compiled.evaluate(claims, data)
        except PolicyInvalid as error:
            raise _named(documents, error) from error
        finally:
            self._account(documents.digest)

    def _of(self, documents: PolicyDocuments) -> CompiledPolicy:
        """Return the compiled policy; threads that need the same one compile it once."""
        digest = documents.digest
        compiled = self._stored(digest)
        if compiled is None:
            with self._lock:
                compiling = self._compiling.setdefault(digest, RLock())
            with compiling:
                try:
                    compiled = self._stored(digest) or self._compile(digest, documents)
                finally:
                    with self._lock:
                        self._compiling.pop(digest, None)
        if isinstance(compiled, PolicyInvalid):
            raise _named(documents, compiled)
        return compiled

    def _compile(self, digest: bytes, documents: PolicyDocuments) -> CompiledPolicy | PolicyInvalid:
        compiled: CompiledPolicy | PolicyInvalid
        try:
            compiled = CompiledPolicy.compile(documents.policy, documents.reference)
        except EngineUnavailable as error:  # not stored: the policy may compile later
            raise _named(documents, error) from error
        except PolicyInvalid as error:
            compiled = error.with_traceback(None)
        self._store(digest, compiled)
        return compiled

    def _stored(self, digest: bytes) -> CompiledPolicy | PolicyInvalid | None:
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None:
                return None
            self._entries.move_to_end(digest)
            return entry.policy

    def _store(self, digest: bytes, compiled: CompiledPolicy | PolicyInvalid) -> None:
        text_bytes = compiled.text_bytes if isinstance(compiled, CompiledPolicy) else 0
        with self._lock:
            self._remove(digest)
            self._entries[digest] = _Entry(compiled, text_bytes)
            self._text_bytes += text_bytes
            while len(self._entries) > MAX_POLICIES or self._text_bytes > MAX_TEXT_BYTES:
                self._remove(next(iter(self._entries)))
        self._account(digest)

    def _remove(self, digest: bytes) -> None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._text_bytes -= entry.text_bytes
            self._count(digest, entry, 0, 0)

    def _account(self, digest: bytes) -> None:
        """Count the instances of the policy that was just used, and release others for them."""
        with self._lock:
            entry = self._entries.get(digest)
            if entry is None or isinstance(entry.policy, PolicyInvalid):
                return
            self._count(digest, entry, *entry.policy.idle)
            while self._idle_bytes > MAX_INSTANCE_BYTES or self._instances > _max_instances():
                oldest = next(iter(self._idle))
                other = self._idle[oldest]
                if isinstance(other.policy, CompiledPolicy):
                    other.policy.release_instances()
                self._count(oldest, other, 0, 0)

    def _count(self, digest: bytes, entry: _Entry, instances: int, idle_bytes: int) -> None:
        """Note an entry's instances; it is now the most recently used of those that have any."""
        self._instances += instances - entry.instances
        self._idle_bytes += idle_bytes - entry.idle_bytes
        entry.instances, entry.idle_bytes = instances, idle_bytes
        self._idle.pop(digest, None)
        if instances:
            self._idle[digest] = entry


def _max_instances() -> int:
    """As many as fit in half of the address space that `ulimit -v` leaves."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return MAX_INSTANCES
    return max(1, min(MAX_INSTANCES, limit // 2 // MEMORY_BYTES))


def _named(documents: PolicyDocuments, error: PolicyInvalid) -> PolicyInvalid:
    """The same error, which names the document that it is about."""
    return type(error)(f"{documents.name}: {error}" if documents.name else str(error))


def is_small(claims: Input) -> bool:
    """Return whether a decision about an input may be made on the event loop."""
    if isinstance(claims, PreparedInput):
        return claims.small
    return not has_more_values(dict(claims), SMALL_VALUES)


def _is_quick(compiled: CompiledPolicy, documents: PolicyDocuments) -> bool:
    """Return whether a decision about a small input may be made on the event loop."""
    if compiled.most_fuel:
        return compiled.most_fuel <= QUICK_FUEL
    return len(documents.policy) + len(documents.data) < _SMALL_CHARS
