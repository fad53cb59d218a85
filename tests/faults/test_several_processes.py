"""Four brokers on one directory, killed again and again: no acknowledged change is lost."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.acknowledging import CERTIFICATES, LISTS
from tests.support.command import environment
from tests.support.vectors import input_file
from verdictd_py.events.chain import verify
from verdictd_py.events.scan import files_of, scan
from verdictd_py.events.verification import verified

LIVES = 3
"""Kills of each of the four brokers."""

State = Callable[[Path, str], str]
"""Returns the state of a name in a data directory."""


@dataclass
class Acknowledged:
    """What the brokers reported.

    Attributes:
        states: state of each name, by kind and name, after the last change that was made.
        open: those whose change may have been made, or not.
    """

    states: dict[tuple[str, str], str] = field(default_factory=dict)
    open: set[tuple[str, str]] = field(default_factory=set)
    failed: int = 0

    def report(self, line: str) -> None:
        word, kind, name, state = line.rstrip("\n").split("\t")
        self.open.discard((kind, name))
        if word == "begin":
            self.open.add((kind, name))
        elif word == "done":
            self.states[kind, name] = state
        else:
            self.failed += 1

    def certain(self, kind: str) -> dict[str, str]:
        return {
            name: state
            for (of, name), state in self.states.items()
            if of == kind and (of, name) not in self.open
        }


async def live(root: Path, prefix: str, seed: int, reported: Acknowledged, changes: int) -> None:
    """Run a broker, and kill it after some changes, at any moment of the next one."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.acknowledging", str(root), prefix, str(seed)),
        stdout=asyncio.subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    async for line in process.stdout:
        reported.report(line.decode())
        changes -= line.startswith(b"done")
        if changes == 0:
            process.kill()
    assert await process.wait() == -9


async def lives(root: Path, prefix: str) -> Acknowledged:
    reported, moments = Acknowledged(), random.Random(prefix)  # noqa: S311  # a test's choice
    for seed in range(LIVES):
        await live(root, prefix, seed, reported, moments.randrange(5, 18))
    return reported


async def test_no_acknowledged_change_of_four_brokers_is_lost(tmp_path: Path) -> None:
    all_reported = await asyncio.gather(*(lives(tmp_path, prefix) for prefix in CERTIFICATES))
    for reported in all_reported:
        for kind, state_of in STATES.items():
            expected = reported.certain(kind)
            assert {name: state_of(tmp_path, name) for name in expected} == expected, kind
    kinds = Counter(kind for reported in all_reported for kind, _ in reported.states)
    assert kinds.keys() == STATES.keys()
    _every_change_has_its_record(tmp_path, all_reported)


def _every_change_has_its_record(root: Path, all_reported: list[Acknowledged]) -> None:
    recorded = Counter[tuple[str, str]]()
    for file in (root / "audit").glob("*.jsonl"):
        lines = file.read_bytes().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # a kill within a write
        verify(iter(lines))
        for record in map(json.loads, lines):
            fields = record["fields"]
            recorded[record["event"], str(fields.get("kid") or fields.get("name"))] += 1
    scans = [scan(path) for path in files_of(root / "audit")]
    assert verified(scans, complete=True).problems == ()
    assert len(list((root / "audit").glob("*.jsonl"))) == LIVES * len(all_reported)
    for reported in all_reported:
        for name, state in reported.certain("set").items():
            assert recorded["reference.added", name]
            assert recorded["reference.retired", name] or state == "in force"
        for name in reported.certain("policy"):
            assert recorded["policy.set", name]
        for name, state in reported.certain("key").items():
            assert recorded["key.created", name] or recorded["key.registered", name]
            assert recorded["key.deleted", name] or state == "stored"


def _set(root: Path, name: str) -> str:
    sets = json.loads((root / "opa/referenceSets").read_text())["tdx"]
    if name not in sets:
        return "missing"
    return "retired" if sets[name]["retiredAt"] else "in force"


def _file(directory: str) -> State:
    def state(root: Path, name: str) -> str:
        return "stored" if (root / directory / name).is_file() else "deleted"

    return state


def _certificate(root: Path, name: str) -> str:
    part = input_file(f"gpg/{name}.gpg").read_bytes()[20:50]
    return "stored" if part in (root / "gpg/keyring.gpg").read_bytes() else "missing"


def _data(root: Path, name: str) -> list[str]:
    values = json.loads((root / "opa/tdxData").read_text())[name]
    assert isinstance(values, list)
    return values


def _list(root: Path, name: str) -> str:
    (prefix,) = (prefix for prefix, listed in LISTS.items() if listed == name)
    return "stored" if _data(root, name) == [prefix * 96] else "missing"


def _pin(root: Path, name: str) -> str:
    return "stored" if name in _data(root, "rtmr2") else "missing"


STATES: dict[str, State] = {
    "set": _set,
    "key": _file("keys"),
    "wrapping key": _file("keys"),
    "resource": _file("resources"),
    "policy": _file("opa"),
    "certificate": _certificate,
    "list": _list,
    "pin": _pin,
}
