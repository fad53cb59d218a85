"""Cache of decisions: a policy that has decided about an input decides the same about it again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from verdictd_py.documents.reference import canonical
from verdictd_py.encoding import JsonValue
from verdictd_py.policy.compiled import CompiledPolicies, is_small
from verdictd_py.policy.engine import NO_DATA, Input, PolicyResult, PreparedInput
from verdictd_py.ports import PolicyDocuments

MAX_DECISIONS: Final = 512
"""Decisions in the cache."""

MAX_TOTAL_BYTES: Final = 1024 * 1024
"""Answers of all decisions in the cache, as JSON; those of the packaged policies have 200 bytes."""

MAX_INPUT_CHARS: Final = 64 * 1024
"""Longest input whose decision is cached; a guest without an event log has 4,000 characters."""

MAX_ANSWER_BYTES: Final = 16 * 1024
"""Longest answer that is cached."""

_Key = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class _Decided:
    result: PolicyResult
    answer_bytes: int


class Decisions:
    """Decisions of policies, each evaluated once for the same input.

    The key is the digest of the policy and its data, and that of the input. A decision depends on
    nothing else: the engine has no clock, no randomness and no network. A result therefore never
    becomes invalid. A changed policy, changed data or a changed claim (also one that changes with
    time) is another key. A decision that fails is not cached. The cache contains answers only, no
    input; the least recently used ones are evicted.
    """

    def __init__(self, compiled: CompiledPolicies) -> None:
        self._compiled = compiled
        self._decided: OrderedDict[_Key, _Decided] = OrderedDict()
        self._bytes = 0

    async def evaluate(
        self, documents: PolicyDocuments, claims: Input, data: Mapping[str, JsonValue] = NO_DATA
    ) -> PolicyResult:
        """Evaluate a policy, or return what it has decided before.

        Args:
            data: see `CompiledPolicies.evaluate`.

        Raises:
            EvaluationFailed, PolicyInvalid: see `CompiledPolicies.evaluate`.
        """
        if not is_small(claims):
            return (await self._compiled.evaluate(documents, claims, data))[1]
        prepared = claims
        if not isinstance(prepared, PreparedInput):
            prepared = PreparedInput.of(prepared, small=True)
        if len(prepared.text) > MAX_INPUT_CHARS:
            return (await self._compiled.evaluate(documents, prepared, data))[1]
        key = documents.digest, _digest(prepared, data)
        decided = self._decided.get(key)
        if decided is not None:
            self._decided.move_to_end(key)
            return decided.result
        _, result = await self._compiled.evaluate(documents, prepared, data)
        self._add(key, result)
        return result

    def _add(self, key: _Key, result: PolicyResult) -> None:
        try:
            answer_bytes = len(canonical(dict(result.document)))
        except ValueError:  # half of a surrogate pair: its length cannot be counted
            return
        if key in self._decided or answer_bytes > MAX_ANSWER_BYTES:
            return
        self._decided[key] = _Decided(result, answer_bytes)
        self._bytes += answer_bytes
        while len(self._decided) > MAX_DECISIONS or self._bytes > MAX_TOTAL_BYTES:
            _, evicted = self._decided.popitem(last=False)
            self._bytes -= evicted.answer_bytes


def _digest(prepared: PreparedInput, data: Mapping[str, JsonValue]) -> bytes:
    """Return SHA-256 over input and data; no JSON text contains the byte that separates them."""
    digest = hashlib.sha256(prepared.text.encode())
    if data:
        digest.update(b"\0" + canonical(dict(data)).encode())
    return digest.digest()
