"""Measures what a decision costs, and for how long it holds up other guests.

Usage: python -m benchmarks.policy_engine [--old TREE PYTHON]

`--old` measures an older source tree in the same run, with the interpreter of an environment that
has its dependencies. For the engine before WebAssembly: `git worktree add TREE a914afc^`, and an
environment with `regopy==1.5.2`.

Costs are CPU time. Latencies are wall time, so that other programs disturb them: compare them
with the line "alone" of the same run, or run the program with `chrt -r 10`.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
ONE: Final = "1" * 96
REGISTERS: Final = (
    *("mrTd", "mrSeam", "mrSignerSeam", "mrConfigId", "mrOwner", "mrOwnerConfig"),
    *("rtmr0", "rtmr1", "rtmr2", "rtmr3"),
)
EVENTS: Final = 1023
INIT_DATA: Final = 1000
INIT_DATA_BYTES: Final = 256 * 1024
HELD_MS: Final = 5
PACE_SECONDS: Final = 0.002
CASES: Final = {
    "default decision": {"values": 0, "worst": False, "repeats": 1000},
    "with 1,000 reference values": {"values": 1000, "worst": False, "repeats": 300},
    "with 10,000 reference values": {"values": 10_000, "worst": False, "repeats": 100},
    "1,023 events, 1,000 init-data": {"values": 0, "worst": True, "repeats": 10},
}
Claims = dict[str, Any]


def claims(number: int, *, worst: bool = False) -> Claims:
    """Claims of a good TD; `worst` adds the largest event log and the longest init-data."""
    made: Claims = dict.fromkeys(REGISTERS, ONE)
    made |= {
        "teeTcbSvn": "07" * 16,
        "tdAttributes": "0000001000000000",
        "xfam": "e702060000000000",
        "reportData": f"{number:0128x}",
        "debug": False,
        "fmspc": "b0c06f000000",
        "tcbStatus": "UpToDate",
        "advisoryIds": [],
        "tcbDate": "2024-03-13T00:00:00Z",
    }
    if worst:
        text = "x" * (INIT_DATA_BYTES // INIT_DATA - 16)
        event = {"index": 1, "type": 2**31, "digest": "ab" * 48}
        made["eventLog"] = {"events": [event] * EVENTS, "efiApplications": ["cd" * 48] * 100}
        made["initData"] = {f"name{number}": text for number in range(INIT_DATA)}
    return made


def reference(values: int) -> str:
    return json.dumps({"mrTd": [*(f"{n:096x}" for n in range(values)), ONE]} if values else {})


def policy() -> str:
    return (ROOT / "policies" / "tdxPolicy.rego").read_text(encoding="utf-8")


def cpu_of(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def costs() -> dict[str, dict[str, float]]:
    """CPU seconds of each case: of compiling, of all decisions, and their median."""
    from verdictd_py.policy.engine import CompiledPolicy  # noqa: PLC0415  # of the measured tree

    made: dict[str, dict[str, float]] = {}
    for name, case in CASES.items():
        began = time.process_time()
        compiled = CompiledPolicy.compile(policy(), reference(case["values"]))
        compiling = time.process_time() - began
        inputs = [claims(number, worst=bool(case["worst"])) for number in range(case["repeats"])]
        times = []
        for each in inputs:
            began = time.process_time()
            allowed = compiled.evaluate(each).allow
            times.append(time.process_time() - began)
            if not allowed:
                raise SystemExit("the packaged policy refuses a good guest")
        made[name] = {
            "compiling": compiling,
            "all": sum(times),
            "median": statistics.median(times),
            "number": len(times),
        }
    return made


def decider() -> Callable[[Mapping[str, Any]], Awaitable[object]]:
    """What the broker awaits for a decision of the packaged policy, here or in an older tree."""
    from verdictd_py.ports import PolicyDocuments  # noqa: PLC0415

    documents = PolicyDocuments(policy(), reference(10))
    try:
        from verdictd_py.policy.compiled import CompiledPolicies  # noqa: PLC0415
    except ImportError:
        from verdictd_py.policy import engine  # noqa: PLC0415

        older: Any = engine.CompiledPolicies()  # type: ignore[attr-defined]

        async def on_the_loop(given: Mapping[str, Any]) -> object:
            return older.of(documents).evaluate(given)

        return on_the_loop
    policies = CompiledPolicies()

    async def decide(given: Mapping[str, Any]) -> object:
        return await policies.evaluate(documents, given)

    return decide


async def latencies(seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds of a healthy guest's decision, and of the loop's lateness."""
    decide = decider()
    await decide(claims(0))
    await decide(claims(0, worst=True))
    made: dict[str, dict[str, float]] = {}
    for name, worst in (("alone", False), ("next to the worst legal input", True)):
        guests = [asyncio.create_task(_worst_guest(decide))] if worst else []
        waited, late = await _healthy_guest(decide, seconds)
        for guest in guests:
            guest.cancel()
        made[f"healthy guest, {name}"] = _spread(waited)
        made[f"event loop, {name}"] = _spread(late)
    return made


async def _worst_guest(decide: Callable[[Mapping[str, Any]], Awaitable[object]]) -> None:
    """One guest with the worst legal input after another."""
    number = 0
    while True:
        number += 1
        await decide(claims(number, worst=True))
        await asyncio.sleep(PACE_SECONDS)


async def _healthy_guest(
    decide: Callable[[Mapping[str, Any]], Awaitable[object]], seconds: float
) -> tuple[list[float], list[float]]:
    waited, late = [], []
    end = time.monotonic() + seconds
    while (due := time.monotonic() + PACE_SECONDS) < end:
        await asyncio.sleep(PACE_SECONDS)
        late.append(1000 * (time.monotonic() - due))
        await decide(claims(len(late)))
        waited.append(1000 * (time.monotonic() - due))
    return waited, late


def _spread(values: Iterable[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p99": ordered[int(len(ordered) * 0.99)],
        "max": ordered[-1],
        "number": len(ordered),
    }


def start(cache: Path) -> dict[str, float]:
    """CPU and wall seconds of the first start, which compiles the engine, and of the next one."""
    program = "from verdictd_py.policy import instances; instances.prepare(lambda _: None)"
    environment = {**os.environ, "CACHE_DIRECTORY": str(cache)}
    made = {}
    for name in ("cold", "warm"):
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run([sys.executable, "-c", program], env=environment, cwd=ROOT, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        made[f"{name}, CPU"] = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        made[f"{name}, wall"] = time.monotonic() - began
    return made


def lock_held() -> float:
    """CPU seconds of the longest work on the worst input that holds the interpreter lock."""
    from verdictd_py.documents.reference import canonical  # noqa: PLC0415

    given = [claims(number, worst=True) for number in range(20)]
    return statistics.median(cpu_of(functools.partial(canonical, each)) for each in given)


def many_policies(number: int) -> dict[str, float]:
    """CPU seconds of two rounds of decisions of many policies: the second finds them compiled."""
    from verdictd_py.policy.compiled import CompiledPolicies  # noqa: PLC0415
    from verdictd_py.ports import PolicyDocuments  # noqa: PLC0415

    policies = CompiledPolicies()
    documents = [PolicyDocuments(f"{policy()}\n# {n}\n", "{}") for n in range(number)]
    given = claims(0)

    async def every() -> None:
        for each in documents:
            await policies.evaluate(each, given)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rounds = [cpu_of(lambda: asyncio.run(every())) for _ in range(2)]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"first round": rounds[0], "second round": rounds[1], "MiB": grown / 1024}


def measure(seconds: float) -> dict[str, Any]:
    return {"costs": costs(), "latencies": asyncio.run(latencies(seconds))}


def report(title: str, measured: dict[str, Any]) -> None:
    print(f"\n{title}")
    for name, cost in measured["costs"].items():
        print(
            f"  {name + ':':34}{1000 * cost['median']:9.3f} ms CPU (median of {cost['number']}), "
            f"{cost['all']:.3f} s together; compiling {1000 * cost['compiling']:.1f} ms"
        )
    for name, spread in measured["latencies"].items():
        print(
            f"  {name + ':':50} median {spread['median']:8.2f} ms, p99 {spread['p99']:8.2f} ms, "
            f"max {spread['max']:8.2f} ms"
        )


def ratios(measured: dict[str, Any], old: dict[str, Any]) -> None:
    print("\nolder engine to this one")
    for name, cost in measured["costs"].items():
        print(f"  {name + ':':34}{old['costs'][name]['median'] / cost['median']:9.1f} times")


def verdict(costs_: dict[str, dict[str, float]], held: float) -> bool:
    """Print the bounds that must be kept, and return whether they are."""
    default = costs_["default decision"]
    many = costs_["with 10,000 reference values"]["median"] / default["median"]
    bounds = {
        f"1,000 default decisions: {default['all']:.3f} s CPU, at most 0.5": default["all"] <= 0.5,
        f"10,000 reference values: {many:.2f} times none, at most 2": many <= 2,
        f"interpreter lock held: {1000 * held:.2f} ms CPU, at most {HELD_MS}": 1000 * held
        <= HELD_MS,
    }
    print("\nbounds")
    for name, passed in bounds.items():
        print(f"  {'passed' if passed else 'FAILED'}  {name}")
    return all(bounds.values())


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Measure the policy engine.")
    parser.add_argument("--old", nargs=2, metavar=("TREE", "PYTHON"), help="an older source tree")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each latency (5)")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure:
        print(json.dumps(measure(arguments.seconds)))
        return 0
    with tempfile.TemporaryDirectory() as cache:
        for name, seconds in start(Path(cache)).items():
            print(f"start, {name}: {seconds:.2f} s")
    many = many_policies(100)
    print("100 policies: " + ", ".join(f"{name} {value:.3f}" for name, value in many.items()))
    measured = measure(arguments.seconds)
    report("this tree", measured)
    if arguments.old:
        tree, python = arguments.old
        command = [python, __file__, "--measure", f"--seconds={arguments.seconds}"]
        environment = {**os.environ, "PYTHONPATH": tree}
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        old = json.loads(done.stdout)
        report("the older tree", old)
        ratios(measured, old)
    return 0 if verdict(measured["costs"], lock_held()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
