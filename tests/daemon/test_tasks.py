"""No background task of the daemon runs without the supervisor."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import verdictd_py

PACKAGE = Path(verdictd_py.__file__).parent
NOT_THE_DAEMON = {"cli", "guest", "simulator", "_generated"}
STARTERS = {"create_task", "ensure_future", "run_coroutine_threadsafe"}

ALLOWED = {
    ("broker/everyguest.py", "GuestsOfWorkers._find"): "one worker each; cancelled by it",
    ("broker/recording.py", "_completed"): "one change; awaited by the use case",
    ("daemon/supervisor.py", "Supervisor.start"): "the supervisor itself",
    ("daemon/workers/channel.py", "Channel.__init__"): "one channel; ends with its socket",
    ("daemon/workers/channel.py", "Channel._begin"): "one message; cancelled by close()",
    ("daemon/workers/pool.py", "Workers._watch"): "one process; cancelled by it",
    ("listeners/attested.py", "AttestedListener._take"): "one guest; awaited by stop()",
    ("listeners/attested.py", "_receive_unless_refused"): "two waits; awaited or cancelled by it",
    ("listeners/calls.py", "_complete"): "one call; awaited by the call",
    ("listeners/grpc_listener.py", "_start_task"): "accepts for a guest's agent; awaited by stop()",
    ("listeners/kbs/connections.py", "Acceptor._take"): "one client; awaited by drain()",
    ("policy/sets.py", "DocumentsWithSets._combine"): "one combination; awaited by its callers",
    ("tees/intel/collateral/pcs.py", "_concurrently"): "four answers; awaited by their group",
    ("vault/client.py", "VaultClient._adopt"): "the renewal of a token; cancelled by close()",
    ("tees/intel/collateral/flights.py", "SingleFlight.start"): "one value; awaited by its callers",
}


def starters(tree: ast.AST, inside: str = "") -> Iterator[str]:
    """Return the qualified names of the functions that start tasks."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from starters(node, f"{inside}.{node.name}".lstrip("."))
            continue
        if isinstance(node, ast.Attribute) and node.attr in STARTERS:
            yield inside
        if isinstance(node, ast.Name) and node.id in STARTERS:
            yield inside
        yield from starters(node, inside)


def test_tasks_are_started_only_where_they_are_awaited() -> None:
    found = {
        (str(file.relative_to(PACKAGE)), where)
        for file in PACKAGE.rglob("*.py")
        if file.relative_to(PACKAGE).parts[0] not in NOT_THE_DAEMON
        for where in starters(ast.parse(file.read_text()))
    }
    assert found == set(ALLOWED)


def test_a_bare_task_is_detected() -> None:
    text = "class A:\n async def f(self):\n  t = asyncio.create_task(x())\n  ensure_future(t)\n"
    assert list(starters(ast.parse(text))) == ["A.f", "A.f"]
