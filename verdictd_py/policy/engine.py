"""Compiled policies: Rego compiled once and evaluated many times, where only `true` is a yes.

Each policy has an instance of the policy engine (`instances`), which bounds every decision, and
another one once two decisions are made at a time. `compiled` caches policies for the broker.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Lock
from types import MappingProxyType
from typing import Any, Final, ParamSpec, Self, TypeVar

from verdictd_py.documents.reference import ReferenceData, canonical
from verdictd_py.encoding import JsonValue, has_more_values
from verdictd_py.errors import EvaluationFailed, PolicyInvalid
from verdictd_py.policy import trustee
from verdictd_py.policy.instances import (
    COMPILE_FUEL,
    DECISION_FUEL,
    EngineInstance,
    EngineUnavailable,
)

P = ParamSpec("P")
T = TypeVar("T")

MAX_POLICY_BYTES: Final = 256 * 1024
"""The packaged policies have less than 4 KiB; the time for compiling grows with the text."""

MAX_INPUT_BYTES: Final = 8 * 1024 * 1024
"""Claims of one guest have less than 4 KiB, apart from its init-data and its event log. A release
policy gets both twice: 6 MB for the longest ones, whose every character is escaped."""

MAX_TRACE_BYTES: Final = 8 * 1024 * 1024
"""Answer with the comparisons of a policy, which only an operator's report requests."""

MAX_IDLE_INSTANCES: Final = 2
"""Of one policy: one for the event loop, and one for a large decision in a thread meanwhile."""

MAX_IDLE_BYTES: Final = 32 * 1024 * 1024
"""Memory of an instance that is used again. One that has grown beyond it is replaced."""

SMALL_VALUES: Final = 256
"""An input of at most this many values is small: its decision may run on the event loop."""

QUICK_FUEL: Final = 10_000_000
"""A policy whose decisions have used at most this much fuel so far is quick: a millisecond."""

NO_DATA: Final[Mapping[str, JsonValue]] = MappingProxyType({})

_THREADS: Final = ThreadPoolExecutor(max_workers=2, thread_name_prefix="policy")


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """The answer of a policy.

    Attributes:
        allow: True only if the policy's `allow` is the JSON value `true`.
        document: value of every rule of `package policy` that is defined for these claims; never
            modified.
    """

    allow: bool
    document: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Definition:
    """One definition of a rule of the policy; a rule may have several.

    Attributes:
        path: parts of the name; a computed last part is left out.
        line: where it begins, from 1 on.
        function: whether it takes arguments, so that it has no value of its own.
    """

    path: tuple[str, ...]
    line: int
    function: bool

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Self:
        """Read a definition as the engine describes it."""
        return cls(tuple(answer["path"] or ("?",)), int(answer["line"]), bool(answer["function"]))


@dataclass(frozen=True, slots=True)
class Trace:
    """Comparisons that the policy makes for some claims.

    Attributes:
        rows: `line`, `operator`, `left`, `right` and `result` of the first comparisons; both
            sides are texts of JSON, which the engine cuts.
        made: how many comparisons there were.
        document: value of every rule, as in `PolicyResult`.
    """

    rows: tuple[Mapping[str, JsonValue], ...]
    made: int
    document: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class PreparedInput:
    """Input of several decisions, written as JSON once. Made by `of`.

    Attributes:
        small: whether a decision about it may run on the event loop.
    """

    text: str = field(repr=False)
    small: bool

    @classmethod
    def of(cls, members: Mapping[str, JsonValue], *, small: bool | None = None) -> Self:
        """Write an input as JSON.

        Args:
            small: whether it is small, None if that is not known yet.

        Raises:
            EvaluationFailed: it cannot be written as JSON.
        """
        try:
            text = canonical(dict(members))
        except ValueError as error:
            raise EvaluationFailed(f"the claims are not JSON: {error}") from error
        if small is None:
            small = not has_more_values(dict(members), SMALL_VALUES)
        return cls(text, small)

    def with_member(self, name: str, value: JsonValue) -> Self:
        """Return the input with one more member, whose name it does not have yet.

        Raises:
            EvaluationFailed: the member cannot be written as JSON.
        """
        added = PreparedInput.of({name: value})
        separator = "" if self.text == "{}" else ","
        text = f"{self.text[:-1]}{separator}{added.text[1:]}"
        return replace(self, text=text, small=self.small and added.small)


Input = Mapping[str, JsonValue] | PreparedInput


class CompiledPolicy:
    """A policy with its reference data, ready to appraise claims. Made by `compile`.

    Attributes:
        reference: the reference data.
        syntax: `v1` or `v0`, the version of Rego that the policy is read as.
        definitions: of its rules, in their order.
        most_fuel: largest fuel of a decision so far; 0 before the first one.
    """

    def __init__(self, request: bytes, reference: ReferenceData) -> None:
        self.reference = reference
        self._request = request
        instance, description = compiled_instance(request)
        self.syntax = str(description["syntax"])
        self.definitions = tuple(Definition.of(each) for each in description["rules"])
        self.most_fuel = 0
        self._overlaid = False  # whether an instance may have data of an earlier decision
        self._idle = [instance]
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
        try:
            return cls(request, reference)
        except EngineUnavailable:
            raise
        except PolicyInvalid as error:
            raise PolicyInvalid(f"{error}{trustee.advice(policy)}") from error

    def evaluate(self, claims: Input, data: Mapping[str, JsonValue] = NO_DATA) -> PolicyResult:
        """Evaluate the policy for `claims`. Any thread may call this at any time.

        Args:
            data: of this decision; it replaces reference data of the same names.

        Raises:
            EvaluationFailed: the claims are not JSON or too large, a function received a wrong
                type, a rule contradicts itself, or the decision exceeds its budget. An
                undefined `allow` is not an error, it is a refusal.
            PolicyInvalid: the policy engine itself failed, whatever the claims.
        """
        term = input_term(claims)
        return self._evaluated(self._take() or compiled_instance(self._request)[0], term, data)

    def evaluate_now(
        self, claims: Input, data: Mapping[str, JsonValue] = NO_DATA
    ) -> PolicyResult | None:
        """Evaluate the policy; return None if an instance would have to be made first.

        Raises:
            EvaluationFailed, PolicyInvalid: see `evaluate`.
        """
        term = input_term(claims)
        instance = self._take()
        return None if instance is None else self._evaluated(instance, term, data)

    def trace(self, claims: Input, data: Mapping[str, JsonValue] = NO_DATA) -> Trace:
        """Evaluate the policy again, and record its comparisons. For reports, never to decide.

        Raises:
            PolicyInvalid: as `evaluate`; recording costs some of the budget.
        """
        instance, _ = compiled_instance(self._request.removesuffix(b"}") + b', "trace": true}')
        term = input_term(claims)
        _overlay(instance, data)
        answer = instance.call("evaluate", term, DECISION_FUEL, max_answer=MAX_TRACE_BYTES)
        return Trace(tuple(answer["comparisons"]), answer["comparisons_made"], answer["document"])

    def coverage(self) -> LineCoverage:
        """Return a recorder of the lines that evaluations reach."""
        return LineCoverage(self._request)

    def _take(self) -> EngineInstance | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _evaluated(
        self, instance: EngineInstance, term: bytes, data: Mapping[str, JsonValue]
    ) -> PolicyResult:
        try:
            if data or self._overlaid:
                self._overlaid = True
                _overlay(instance, data)
            document = instance.call("evaluate", term, DECISION_FUEL)["document"]
            self.most_fuel = max(self.most_fuel, instance.used_fuel)
        except EvaluationFailed as error:
            self.most_fuel = max(self.most_fuel, instance.used_fuel)
            if instance.broken:
                raise
            raise EvaluationFailed(f"the policy failed: {error}") from error
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


class LineCoverage:
    """Lines of a policy that its evaluations reach, from 1 on.

    Attributes:
        reached: lines that at least one evaluation reached.
        not_reached: lines with an expression that no evaluation reached.
    """

    def __init__(self, request: bytes) -> None:
        self.reached: frozenset[int] = frozenset()
        self.not_reached: frozenset[int] = frozenset()
        self._request = request
        self._instance: EngineInstance | None = None

    def evaluate(self, claims: Input, data: Mapping[str, JsonValue] = NO_DATA) -> None:
        """Evaluate the policy for `claims`, and add the lines that this reaches.

        Raises:
            PolicyInvalid: see `CompiledPolicy.evaluate`.
        """
        if self._instance is None or self._instance.broken:
            self._instance, _ = compiled_instance(self._request)
            self._instance.call("record_coverage", None, DECISION_FUEL)
        try:
            _overlay(self._instance, data)
            self._instance.call("evaluate", input_term(claims), DECISION_FUEL)
        finally:
            if not self._instance.broken:
                answer = self._instance.call("coverage", None, DECISION_FUEL)
                covered, missed = answer["covered"] or (), answer["not_covered"] or ()
                self.reached |= frozenset(covered)
                self.not_reached = (self.not_reached | frozenset(missed)) - self.reached


def compiled_instance(request: bytes) -> tuple[EngineInstance, Mapping[str, Any]]:
    """Return an instance that has compiled a policy, and the engine's description of the policy.

    Raises:
        PolicyInvalid: the policy cannot be compiled; the message names cause and place.
    """
    instance = EngineInstance()
    try:
        return instance, instance.call("compile", request, COMPILE_FUEL)
    except EvaluationFailed as error:  # without any input, so the policy is at fault
        text = str(error) if instance.broken else f"the policy cannot be compiled: {error}"
        raise PolicyInvalid(text) from error


def input_term(claims: Input) -> bytes:
    """Return the input of an evaluation as the engine takes it.

    Raises:
        EvaluationFailed: the claims are not JSON, or too large.
    """
    try:
        prepared = claims if isinstance(claims, PreparedInput) else PreparedInput.of(claims)
        term = prepared.text.encode()
    except ValueError as error:
        raise EvaluationFailed(f"the claims are not JSON: {error}") from error
    if len(term) > MAX_INPUT_BYTES:
        raise EvaluationFailed(f"the claims are larger than {MAX_INPUT_BYTES} bytes")
    return term


def _overlay(instance: EngineInstance, data: Mapping[str, JsonValue]) -> None:
    """Put data of one decision in place of reference data of the same names."""
    instance.call("overlay", canonical(dict(data)).encode(), DECISION_FUEL)


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in one of the threads for policies, and return what it returns."""
    call = functools.partial(work, *args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(_THREADS, call)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
