"""Instances of the policy engine: WebAssembly with a budget of fuel and memory for each call.

An instance holds one compiled policy. It is used by one thread at a time, and the interpreter
lock is free while it runs.
"""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from threading import Lock
from typing import Any, Final

from wasmtime import Config, Engine, Instance, Module, Store, Trap, TrapCode, WasmtimeError

from verdictd_py.errors import EvaluationFailed, PolicyInvalid
from verdictd_py.policy import native

DECISION_FUEL: Final = 1_000_000_000
"""A unit is about one instruction; this is a tenth of a second of one processor. Measured: 1.3
million for the packaged policy, 2.3 million with 10,000 reference values, 28 million with an
event log of 1,023 events and 1,000 values of init-data, 43 million where the policy walks both."""

COMPILE_FUEL: Final = 10_000_000_000
"""Measured: 17 million for the packaged policy, 470 million with 40,000 reference values."""

MEMORY_BYTES: Final = 64 * 1024 * 1024
"""Of one instance, and the addresses that it reserves. Measured: 2 MiB for the packaged policy,
23 MiB with 40,000 reference values. All of it is reserved at once, because a memory that moves when
it grows is copied each time, and that costs no fuel."""

STACK_BYTES: Final = 512 * 1024
"""Of the thread's own stack, which has 8 MiB, or 2 MiB and more in a thread of musl."""

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Parsing it holds the interpreter lock. Measured: 2.5 ms for this length."""

_EXPORTS: Final = frozenset(
    {
        *("memory", "buffer", "compile", "evaluate", "overlay"),
        *("record_coverage", "coverage", "exhausted"),
    }
)
_AFTERWARDS: Final = 100_000
"""Fuel for the call that finds out why another one ended."""

_LOADING: Final = Lock()
_MASK: Final = 2**32 - 1


class EngineUnavailable(PolicyInvalid):
    """The policy engine lacks memory or addresses now; no policy is at fault."""


class EngineInstance:
    """One instance with its memory.

    Attributes:
        broken: whether a call ended in a trap; the instance must not be used again.
        memory_bytes: memory that it has taken. It never shrinks.
        used_fuel: fuel that the last call has used.
    """

    def __init__(self) -> None:
        engine, module = _engine()
        self.broken = False
        self.memory_bytes = 0
        self.used_fuel = 0
        self._store = Store(engine)
        self._store.set_limits(memory_size=MEMORY_BYTES)
        try:
            instance = Instance(self._store, module, [])
        except WasmtimeError as error:
            raise EngineUnavailable(_no_address_space()) from error
        self._exports: Any = instance.exports(self._store)
        self._memory: Any = self._exports["memory"]

    def call(
        self,
        function: str,
        request: bytes | None,
        fuel: int,
        *,
        max_answer: int = MAX_ANSWER_BYTES,
    ) -> dict[str, Any]:
        """Return the answer of an exported function (`policy_engine/src/lib.rs`).

        Args:
            max_answer: bytes of JSON.

        Raises:
            EvaluationFailed: the answer is an error or too large, or the budget was exceeded.
            PolicyInvalid: the engine itself failed.
        """
        self._store.set_fuel(fuel)
        try:
            if request is not None:
                address = self._exports["buffer"](self._store, len(request)) & _MASK
                self._memory.write(self._store, request, address)
            packed = self._exports[function](self._store)
        except (Trap, WasmtimeError) as error:
            self.broken = True
            raise self._cause(error, fuel) from error
        finally:
            self.memory_bytes = self._memory.data_len(self._store)
            self.used_fuel = fuel - self._store.get_fuel()
        start, length = (packed >> 32) & _MASK, packed & _MASK
        if length > max_answer:
            raise EvaluationFailed(f"the policy's answer is larger than {max_answer} bytes")
        answer = json.loads(bytes(self._memory.read(self._store, start, start + length)))
        if "error" in answer:
            raise EvaluationFailed(_message(answer["error"]))
        return dict(answer)

    def _cause(self, error: Trap | WasmtimeError, fuel: int) -> PolicyInvalid:
        """Name the budget that a call exceeded, or the internal error that stopped it."""
        code = error.trap_code if isinstance(error, Trap) else None
        if code == TrapCode.OUT_OF_FUEL:
            return EvaluationFailed(
                f"the policy takes too long: its budget is {fuel:,} units of fuel; simplify it"
            )
        if code == TrapCode.STACK_OVERFLOW:
            return EvaluationFailed(
                f"the policy nests or recurses too deeply: its budget is {STACK_BYTES // 1024} KiB "
                "of stack; simplify it"
            )
        self._store.set_fuel(_AFTERWARDS)
        if self._exports["exhausted"](self._store):
            return EvaluationFailed(
                "the policy needs too much memory: its budget is "
                f"{MEMORY_BYTES // 2**20} MiB; simplify it, or shorten its data"
            )
        first = str(error).partition("\n")[0]
        return PolicyInvalid(f"the policy engine failed: {first}; report this as a defect")


def prepare(report: Callable[[str], None]) -> None:
    """Load the engine now, so that the first decision does not wait for it.

    Raises:
        PolicyInvalid: it cannot be loaded.
    """
    _engine(report)


def _engine(report: Callable[[str], None] = lambda _: None) -> tuple[Engine, Module]:
    with _LOADING:
        if not _LOADED:
            _LOADED.append(_load(report))
        return _LOADED[0]


_LOADED: Final[list[tuple[Engine, Module]]] = []


def precompile() -> Path:
    """Store the compiled engine in the package, and return its path. Any processor can run it.

    Build steps of images call it as root, so that no start of a container compiles.

    Raises:
        OSError: the package cannot be written.
        PolicyInvalid: the engine cannot be compiled, or the code cannot be loaded here.
    """
    return native.store_packaged(_new_engine(native.target()), _new_engine(), _code())


def _load(report: Callable[[str], None]) -> tuple[Engine, Module]:
    engine = _new_engine()
    module = native.load(engine, _code(), report)
    if not {export.name for export in module.exports} >= _EXPORTS:
        raise PolicyInvalid("engine.wasm is not the policy engine; install the package again")
    return engine, module


def _new_engine(target: str | None = None) -> Engine:
    """Return an engine; its settings decide which compiled code it loads.

    Args:
        target: what it compiles for; None for this processor.
    """
    config = Config()
    if target is not None:
        config.target = target
    config.consume_fuel = True
    config.parallel_compilation = False  # its threads hung under a low ulimit -v
    config.max_wasm_stack = STACK_BYTES
    config.memory_reservation = MEMORY_BYTES
    config.memory_may_move = False
    config.memory_reservation_for_growth = 0
    config.memory_guard_size = 64 * 1024
    try:
        return Engine(config)
    except WasmtimeError as error:
        raise PolicyInvalid(_no_address_space()) from error


@cache
def _code() -> bytes:
    return files("verdictd_py.policy").joinpath("engine.wasm").read_bytes()


def _no_address_space() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return f"the policy engine cannot reserve {MEMORY_BYTES // 2**20} MiB of addresses"
    return (
        f"the policy engine cannot reserve {MEMORY_BYTES // 2**20} MiB of addresses: the limit "
        f"(ulimit -v) is {limit // 1024} KiB; raise it"
    )


_PLACE: Final = re.compile(r"(source|policy):(\d+):(\d+)")
"""Columns are right in `source` only: the engine evaluates a policy that the crate has written
again, with the same lines."""


def _message(text: str) -> str:
    """Return `line 3, column 5: unexpected keyword` for the engine's message and its place."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    message = lines[-1].removeprefix("error: ") if lines else "the policy engine failed"
    place = _PLACE.search(text)
    if place is None:
        return message
    column = f", column {place[3]}" if place[1] == "source" else ""
    return f"line {place[2]}{column}: {message}"
