"""Runs policies that nobody has checked yet: in a child process that can do little harm.

A policy is code. One of a thousand characters can run for hours and take all memory, and
the engine cannot be stopped from within. So a new policy is compiled and tried in a process
of its own, with no environment and with limits on processor time, memory and files
(`sandbox_child`); only what came back from there is stored.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.ports import PolicyDocuments, Tees, TestedPolicy

CPU_SECONDS: Final = 2
"""Processor time of a child, its start (0.2 s) included."""

MEMORY_BYTES: Final = 256 * 1024 * 1024
"""Of a child, its start (40 MiB) included."""

WALL_SECONDS: Final = 20.0
"""On a busy machine 2 s of processor time take longer; nothing waits for ever."""

MAX_CHILDREN: Final = 2
"""At once; more of them wait."""

_START: Final = (
    "import json, sys; sys.path += [p for p in json.loads(sys.argv[1]) if p not in sys.path]; "
    "from verdictd_py.policy import sandbox_child; sandbox_child.main()"
)
"""With `-I` the child takes nothing from its environment or directory; it is told where the
parent found its packages."""

_LIMITS: Final = (
    f"at most {CPU_SECONDS} s of processor time and {MEMORY_BYTES // 2**20} MiB of memory"
)


class PolicySandbox:
    """Port `PolicyTester`.

    Args:
        tees: those whose sample claims policies are tried on.
    """

    def __init__(self, tees: Tees) -> None:
        self._tees = tees
        self._free = asyncio.Semaphore(MAX_CHILDREN)

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
        known = self._tees.get(tee)
        sample = self._any_sample() if known is None else known.sample_claims
        await self._ask(documents, {"do": "check", "claims": sample})

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> TestedPolicy:
        answer = await self._ask(documents, {"do": "test", "claims": claims})
        allow, info = answer.get("allow"), answer.get("parseInfo")
        return TestedPolicy(allow is True, info if isinstance(info, dict) else {})

    def _any_sample(self) -> dict[str, JsonValue]:
        """Input for a policy of no TEE: it may also be a release policy, with other members."""
        tee = self._tees.default
        return {
            **tee.sample_claims,
            "claims": tee.sample_claims,
            "appraisal": {"id": "00" * 16, "tee": tee.name},
            "resource": {
                "kind": "resource",
                "path": "default/key/1",
                "labels": {"repository": "default", "type": "key", "tag": "1"},
            },
        }

    async def _ask(
        self, documents: PolicyDocuments, question: Mapping[str, JsonValue]
    ) -> dict[str, JsonValue]:
        """The child's answer.

        Raises:
            PolicyInvalid: it says so, or it did not live to say anything.
        """
        asked = {**question, "policy": documents.policy, "data": documents.data}
        async with self._free:
            status, output = await _run(json.dumps(asked).encode())
        try:
            answer = json.loads(output) if status == 0 else None
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise PolicyInvalid(_death(status))
        if "invalid" in answer:
            raise PolicyInvalid(str(answer["invalid"]))
        return answer


async def _run(question: bytes) -> tuple[int | None, bytes]:
    """Status (negative: a signal; None: killed because it was slow) and standard output."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-c", _START, json.dumps(_packages())),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
        cwd="/",
    )
    try:
        async with asyncio.timeout(WALL_SECONDS):
            output, _ = await child.communicate(question)
    except TimeoutError:
        return None, b""
    finally:
        if child.returncode is None:
            with suppress(ProcessLookupError):
                child.kill()
            await asyncio.shield(child.wait())
    return child.returncode, output


def _packages() -> list[str]:
    """Where this process finds modules; an empty entry is its directory."""
    return [str(Path(path).absolute()) for path in sys.path]


def _death(status: int | None) -> str:
    if status is None:
        return f"the policy was not judged within {WALL_SECONDS:.0f} s; simplify it, or try again"
    if status in {-signal.SIGXCPU, -signal.SIGKILL}:
        return f"the policy takes too long: it may use {_LIMITS}; simplify it, or shorten its data"
    return f"the engine failed on the policy: it may use {_LIMITS}; simplify it"
