"""Compiled policies: Rego compiled once and evaluated many times, where only `true` is a yes.

Each policy has a few instances of the policy engine (`instances`), which bounds every decision.
Large decisions run in a thread of their own, because the interpreter lock is free meanwhile.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from types import MappingProxyType
from typing import Final, ParamSpec, Self, TypeVar

from verdictd_py.documents.reference import ReferenceData, canonical
from verdictd_py.encoding import JsonValue, has_more_values
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy import trustee
from verdictd_py.policy.instances import COMPILE_FUEL, DECISION_FUEL, EngineInstance
from verdictd_py.ports import PolicyDocuments

P = ParamSpec("P")
T = TypeVar("T")

MAX_POLICY_BYTES: Final = 256 * 1024
"""The packaged policies have less than 4 KiB; the time for compiling grows with the text."""

MAX_INPUT_BYTES: Final = 2 * 1024 * 1024
"""Claims of one guest have less than 4 KiB, apart from its init-data and its event log. A release
policy gets both twice: 1.1 MB for the longest ones, which cost 56 million units of fuel."""

MAX_COMPILED: Final = 16
"""Policies stored compiled: those in force, and those that a change has just replaced."""

MAX_IDLE_INSTANCES: Final = 1
"""Of one policy. Each reserves addresses; further ones are made when they are needed (3 ms)."""

_SMALL_VALUES: Final = 256
_SMALL_CHARS: Final = 64 * 1024
"""Decisions over less than this take well below a millisecond and are made on the event loop."""

_NO_DATA: Final[Mapping[str, JsonValue]] = MappingProxyType({})

_THREADS: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="policy")


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """The answer of a policy.

    Attributes:
        allow: True only if the policy's `allow` is the JSON value `true`.
        document: value of every rule of `package policy` that is defined for these claims.
    """

    allow: bool
    document: Mapping[str, JsonValue]


class CompiledPolicy:
    """A policy with its reference data, ready to judge claims. Made by `compile`.

    Attributes:
        reference: the reference data.
    """

    def __init__(self, policy: str, request: bytes, reference: ReferenceData) -> None:
        self.reference = reference
        self._policy = policy
        self._request = request
        self._overlaid = False  # whether an instance may have data of an earlier decision
        self._idle = deque([self._new_instance()])

    @classmethod
    def compile(cls, policy: str, data: str | ReferenceData) -> Self:
        """Compile `policy` over reference data, which is parsed here if it is JSON text.

        A policy that parses as Rego v1 is Rego v1; every other one is read as Rego v0.

        Raises:
            PolicyInvalid: text or data is too large or not usable, the policy has no rule
                `allow`, or it uses something that is not available; the message names it.
        """
        policy = policy.removeprefix("\ufeff")
        if len(policy) > MAX_POLICY_BYTES or len(_utf8(policy)) > MAX_POLICY_BYTES:
            raise PolicyInvalid(f"the policy is larger than {MAX_POLICY_BYTES} bytes")
        if "\0" in policy:
            raise PolicyInvalid("the policy contains a NUL character; remove it")
        reference = data if isinstance(data, ReferenceData) else ReferenceData.parse(data)
        try:
            request = f'{{"policy": {canonical(policy)}, "data": {reference.text}}}'.encode()
        except ValueError as error:
            raise PolicyInvalid(f"the policy is not text: {error}") from error
        return cls(policy, request, reference)

    def evaluate(
        self, claims: Mapping[str, JsonValue], data: Mapping[str, JsonValue] = _NO_DATA
    ) -> PolicyResult:
        """Evaluate the policy for `claims`. Any thread may call this at any time.

        Args:
            data: of this decision; it replaces reference data of the same names.

        Raises:
            PolicyInvalid: the claims are not JSON or too large, a function received a wrong
                type, a rule contradicts itself, or the decision exceeds its budget. An
                undefined `allow` is not an error, it is a refusal.
        """
        try:
            term = canonical(dict(claims)).encode()
        except ValueError as error:
            raise PolicyInvalid(f"the claims are not JSON: {error}") from error
        if len(term) > MAX_INPUT_BYTES:
            raise PolicyInvalid(f"the claims are larger than {MAX_INPUT_BYTES} bytes")
        document = self._answer(term, canonical(dict(data)).encode() if data else None)
        if not isinstance(document, dict):
            raise PolicyInvalid("the policy's answer is not an object")
        return PolicyResult(document.get("allow") is True, document)

    def _answer(self, term: bytes, data: bytes | None) -> JsonValue:
        try:
            instance = self._idle.popleft()
        except IndexError:
            instance = self._new_instance()
        try:
            if data is not None or self._overlaid:
                self._overlaid = True
                instance.call("overlay", data or b"{}", DECISION_FUEL)
            answer: JsonValue = instance.call("evaluate", term, DECISION_FUEL)["document"]
        except PolicyInvalid as error:
            if instance.broken:
                raise
            raise PolicyInvalid(f"the policy failed: {error}") from error
        finally:
            if not instance.broken and len(self._idle) < MAX_IDLE_INSTANCES:
                self._idle.append(instance)
        return answer

    def _new_instance(self) -> EngineInstance:
        instance = EngineInstance()
        try:
            instance.call("compile", self._request, COMPILE_FUEL)
        except PolicyInvalid as error:
            if instance.broken:
                raise
            raise PolicyInvalid(
                f"the policy cannot be compiled: {error}{trustee.advice(self._policy)}"
            ) from error
        return instance


class CompiledPolicies:
    """Compiled policies by their text and data, so that each is compiled once."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[bytes, CompiledPolicy | PolicyInvalid] = OrderedDict()
        self._lock = Lock()

    def of(self, documents: PolicyDocuments) -> CompiledPolicy:
        """The compiled policy. A failure is stored as well: it fails again without compiling.

        Raises:
            PolicyInvalid: see `CompiledPolicy.compile`.
        """
        digest = _digest(documents)
        compiled = self._stored(digest)
        if compiled is None:
            try:
                compiled = CompiledPolicy.compile(documents.policy, documents.reference)
            except PolicyInvalid as error:
                compiled = error.with_traceback(None)
            self._store(digest, compiled)
        if isinstance(compiled, PolicyInvalid):
            raise PolicyInvalid(str(compiled))
        return compiled

    async def evaluate(
        self,
        documents: PolicyDocuments,
        claims: Mapping[str, JsonValue],
        data: Mapping[str, JsonValue] = _NO_DATA,
    ) -> tuple[CompiledPolicy, PolicyResult]:
        """Evaluate the policy in these documents without blocking the event loop.

        Raises:
            PolicyInvalid: see `CompiledPolicy.compile` and `CompiledPolicy.evaluate`.
        """
        if _is_small(documents, claims):
            compiled = self._stored(_digest(documents))
            if isinstance(compiled, CompiledPolicy):
                return compiled, compiled.evaluate(claims, data)
        return await in_thread(self._evaluate, documents, claims, data)

    def _evaluate(
        self,
        documents: PolicyDocuments,
        claims: Mapping[str, JsonValue],
        data: Mapping[str, JsonValue],
    ) -> tuple[CompiledPolicy, PolicyResult]:
        compiled = self.of(documents)
        return compiled, compiled.evaluate(claims, data)

    def _stored(self, digest: bytes) -> CompiledPolicy | PolicyInvalid | None:
        with self._lock:
            if digest in self._compiled:
                self._compiled.move_to_end(digest)
            return self._compiled.get(digest)

    def _store(self, digest: bytes, compiled: CompiledPolicy | PolicyInvalid) -> None:
        with self._lock:
            self._compiled[digest] = compiled
            while len(self._compiled) > MAX_COMPILED:
                self._compiled.popitem(last=False)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in one of the threads for policies, and return what it returns."""
    call = functools.partial(work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


def _is_small(documents: PolicyDocuments, claims: Mapping[str, JsonValue]) -> bool:
    texts = len(documents.policy) + len(documents.data)
    return texts < _SMALL_CHARS and not has_more_values(dict(claims), _SMALL_VALUES)


def _digest(documents: PolicyDocuments) -> bytes:
    """SHA-256 over both texts, each hashed first so that neither runs into the other."""
    hashed = (hashlib.sha256(_utf8(part)).digest() for part in (documents.policy, documents.data))
    return hashlib.sha256(b"".join(hashed)).digest()


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
