"""No test is decided by a limit of time below ten seconds, which a busy machine exceeds."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

TESTS: Final = Path(__file__).parents[1]
SHORTEST: Final = 10
"""Seconds."""

WAITS: Final = {"timeout": 0, "timeout_at": 0, "wait_for": 1, "settimeout": 0}
"""Functions that limit the time of a wait, and the position of their limit."""

REASON: Final = "# window: "
"""Begins the comment that gives the reason for a short limit, on the line of the limit.

A good reason: nothing in the test may be faster than the limit, so that a busy machine delays the
result and does not change it.
"""

CLOCKS: Final = {"time.monotonic", "time.perf_counter", "time.monotonic_ns"}
"""Functions by which a test measures how long something really takes."""


CPU_CLOCKS: Final = {"time.process_time", "time.thread_time", "cost", "LoopMeter"}
"""What measures CPU time: of the library, and of `tests/support/{work,stalls}.py`."""

LEAST_CPU_SECONDS: Final = 2


def unmarked(source: str) -> Iterator[int]:
    """Yield the line of each test that measures CPU time without the marker `timing`."""
    lines = source.splitlines()
    functions = {
        node.name: node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    calls = {
        name: {
            ast.unparse(call.func)
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and REASON not in lines[call.lineno - 1]
        }
        for name, node in functions.items()
    }
    measuring = set(CPU_CLOCKS)
    while more := {name for name, called in calls.items() if called & measuring} - measuring:
        measuring |= more
    for name in sorted(measuring & functions.keys()):
        marks = {ast.unparse(mark) for mark in functions[name].decorator_list}
        if name.startswith("test_") and "pytest.mark.timing" not in marks:
            yield functions[name].lineno


def tight(source: str) -> Iterator[int]:
    """Yield the line of each comparison of CPU time with less than two seconds."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Lt | ast.LtE):
            limit = node.comparators[0]
            measured = any(clock in ast.unparse(node.left) for clock in CPU_CLOCKS if "." in clock)
            seconds = limit.value if isinstance(limit, ast.Constant) else LEAST_CPU_SECONDS
            if measured and isinstance(seconds, int | float) and seconds < LEAST_CPU_SECONDS:
                yield node.lineno


def windows(source: str) -> Iterator[int]:
    """Yield the line of each short limit of time without a reason, and of each stopwatch."""
    lines = source.splitlines()
    tree = ast.parse(source)
    names = dict(_constants(tree))
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        for limit in _limits(call):
            if _is_short(limit, names) and REASON not in lines[limit.lineno - 1]:
                yield limit.lineno
        if ast.unparse(call.func) in CLOCKS and REASON not in lines[call.lineno - 1]:
            yield call.lineno
        yield from _options(call.args, lines)
    for node in ast.walk(tree):
        if isinstance(node, ast.Tuple | ast.List):
            yield from _options(node.elts, lines)


def _constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node.value
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
            yield node.target.id, node.value


def _limits(call: ast.Call) -> Iterator[ast.expr]:
    for keyword in call.keywords:
        name = keyword.arg or ""
        if name.endswith("timeout") or name in {"timeout_seconds", "busy_seconds", "wait_seconds"}:
            yield keyword.value
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    position = WAITS.get(name)
    if position is not None and len(call.args) > position:
        yield call.args[position]


def _is_short(limit: ast.expr, names: dict[str, ast.expr]) -> bool:
    if isinstance(limit, ast.Name):
        limit = names.get(limit.id, limit)
    if isinstance(limit, ast.BinOp):
        return _is_short(limit.left, names) and _is_short(limit.right, names)
    return (
        isinstance(limit, ast.Constant)
        and isinstance(limit.value, int | float)
        and 0 < limit.value < SHORTEST
    )


def _options(words: list[ast.expr], lines: list[str]) -> Iterator[int]:
    """Yield the line of each short limit in the words of a command line."""
    texts = [word.value if isinstance(word, ast.Constant) else None for word in words]
    for option, value, word in zip(texts, texts[1:], words[1:], strict=False):
        limits_time = isinstance(option, str) and option.endswith("timeout")
        if limits_time and _is_short_text(value) and REASON not in lines[word.lineno - 1]:
            yield word.lineno


def _is_short_text(value: object) -> bool:
    try:
        return 0 < float(str(value)) < SHORTEST
    except ValueError:
        return False


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.timeout(5)",
        "asyncio.wait_for(task, 0.5)",
        "link.settimeout(2)",
        "connect(address, timeout=5)",
        "broker(handshake_timeout=0.3)",
        "LIMIT = 5\nasyncio.timeout(LIMIT)",
        "LIMIT: Final = 5\nasyncio.timeout(LIMIT + 2)",
        "begin = time.monotonic()",
        "run('--timeout', '5')",
        "words = ('--timeout', '0.5')",
        "@pytest.mark.timeout(2)\ndef test(): ...",
    ],
)
def test_short_limits_are_noticed(source: str) -> None:
    assert list(windows(source))


@pytest.mark.parametrize(
    "source",
    [
        "asyncio.timeout(60)",
        "broker(handshake_timeout=LIMIT)",
        "connect(timeout=0)",
        "asyncio.timeout(5)  # window: nothing else may end this wait",
        "words = ('--timeout', 'soon')",
        "Trail(monotonic=Clock())",
    ],
)
def test_other_limits_are_not(source: str) -> None:
    assert not list(windows(source))


def test_no_test_is_decided_by_a_short_limit_of_time() -> None:
    found = [
        f"{file.relative_to(TESTS.parent)}:{line}: a limit below {SHORTEST} s; let time elapse by "
        f"tests.support.clock, or give a reason with '{REASON}'"
        for file in sorted(TESTS.rglob("*.py"))
        if file != Path(__file__)
        for line in sorted(windows(file.read_text()))
    ]
    assert not found, "\n".join(found)


_MEASURED = "assert time.process_time() - begin < 2"


@pytest.mark.parametrize(
    "source",
    [
        f"def test_it():\n    {_MEASURED}",
        f"def measured():\n    {_MEASURED}\ndef test_it():\n    measured()",
        "async def test_it():\n    LoopMeter(loop).start()",
    ],
)
def test_a_test_that_measures_cpu_time_needs_the_marker(source: str) -> None:
    assert list(unmarked(source))
    head, test, rest = source.rpartition("async def" if "async def" in source else "def test")
    assert not list(unmarked(f"{head}@pytest.mark.timing\n{test}{rest}"))


def test_a_tight_limit_of_cpu_time_is_noticed() -> None:
    assert list(tight(_MEASURED.replace("2", "0.5")))
    assert not list(tight(_MEASURED))


def test_every_test_of_cpu_time_is_marked_and_generous() -> None:
    found = [
        f"{file.relative_to(TESTS.parent)}:{line}: {problem}"
        for file in sorted(TESTS.rglob("*.py"))
        for check, problem in (
            (unmarked, "it measures CPU time: mark it with pytest.mark.timing"),
            (tight, f"a limit below {LEAST_CPU_SECONDS} s of CPU time"),
        )
        if any(clock in (source := file.read_text()) for clock in CPU_CLOCKS)
        for line in sorted(check(source))
    ]
    assert not found, "\n".join(found)
