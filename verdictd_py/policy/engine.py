"""Compiled policies: Rego compiled once and evaluated many times, where only `true` is a yes.

Each policy has an instance of the policy engine (`instances`), which bounds every decision, and
another one once two decisions are made at a time. `compiled` caches policies for the broker.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Final, ParamSpec, Self, TypeVar

from verdictd_py.documents.reference import ReferenceData, canonical
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.instances import COMPILE_FUEL, DECISION_FUEL, EngineInstance

P = ParamSpec("P")
T = TypeVar("T")

MAX_POLICY_BYTES: Final = 256 * 1024
"""The packaged policies have less than 4 KiB; the time for compiling grows with the text."""

MAX_INPUT_BYTES: Final = 1024 * 1024
"""Claims of one guest have less than 4 KiB, apart from its init-data and its event log."""

MAX_IDLE_INSTANCES: Final = 2
"""Of one policy: one for the event loop, and one for a large decision in a thread meanwhile."""

MAX_IDLE_BYTES: Final = 32 * 1024 * 1024
"""Memory of an instance that is used again. One that has grown beyond it is replaced."""

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

    def __init__(self, request: bytes, reference: ReferenceData) -> None:
        self.reference = reference
        self._request = request
        self._idle = [self._new_instance()]
        self._lock = Lock()

    @property
    def idle(self) -> tuple[int, int]:
        """Number of instances that wait for the next decision, and their memory in bytes."""
        with self._lock:
            return len(self._idle), sum(instance.memory_bytes for instance in self._idle)

    @property
    def text_bytes(self) -> int:
        """Length of the policy with its data."""
        return len(self._request)

    def release_instances(self) -> None:
        """Free the memory of the idle instances; the next decision makes another one."""
        with self._lock:
            self._idle.clear()

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
        return cls(request, reference)

    def evaluate(self, claims: Mapping[str, JsonValue]) -> PolicyResult:
        """Evaluate the policy for `claims`. Any thread may call this at any time.

        Raises:
            PolicyInvalid: the claims are not JSON or too large, a function received a wrong
                type, a rule contradicts itself, or the decision exceeds its budget. An
                undefined `allow` is not an error, it is a refusal.
        """
        term = _encoded(claims)
        return self._evaluated(self._take() or self._new_instance(), term)

    def evaluate_now(self, claims: Mapping[str, JsonValue]) -> PolicyResult | None:
        """Evaluate the policy; return None if an instance would have to be made first.

        Raises:
            PolicyInvalid: see `evaluate`.
        """
        term = _encoded(claims)
        instance = self._take()
        return None if instance is None else self._evaluated(instance, term)

    def _take(self) -> EngineInstance | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _evaluated(self, instance: EngineInstance, term: bytes) -> PolicyResult:
        try:
            document = instance.call("evaluate", term, DECISION_FUEL)["document"]
        except PolicyInvalid as error:
            if instance.broken:
                raise
            raise PolicyInvalid(f"the policy failed: {error}") from error
        finally:
            self._give_back(instance)
        if not isinstance(document, dict):
            raise PolicyInvalid("the policy's answer is not an object")
        return PolicyResult(document.get("allow") is True, document)

    def _give_back(self, instance: EngineInstance) -> None:
        if not instance.broken and instance.memory_bytes <= MAX_IDLE_BYTES:
            with self._lock:
                if len(self._idle) < MAX_IDLE_INSTANCES:
                    self._idle.append(instance)

    def _new_instance(self) -> EngineInstance:
        instance = EngineInstance()
        try:
            instance.call("compile", self._request, COMPILE_FUEL)
        except PolicyInvalid as error:
            if instance.broken:
                raise
            raise PolicyInvalid(f"the policy cannot be compiled: {error}") from error
        return instance


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in one of the threads for policies, and return what it returns."""
    call = functools.partial(work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


def _encoded(claims: Mapping[str, JsonValue]) -> bytes:
    try:
        term = canonical(dict(claims)).encode()
    except ValueError as error:
        raise PolicyInvalid(f"the claims are not JSON: {error}") from error
    if len(term) > MAX_INPUT_BYTES:
        raise PolicyInvalid(f"the claims are larger than {MAX_INPUT_BYTES} bytes")
    return term


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
