"""The child process of `sandbox`: limits itself, then compiles and asks one policy.

One JSON object on standard input, one on standard output: `{"invalid": "..."}` or what
was asked for.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO, Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import PolicyInvalid
from verdictd_py.policy.engine import CompiledPolicy
from verdictd_py.policy.reference import parse_data
from verdictd_py.policy.sandbox import CPU_SECONDS, MEMORY_BYTES

MAX_DECISION_SECONDS: Final = 0.25
"""Processor time for one guest. All others wait meanwhile; 10,000 reference values take 0.03."""

_MAX_FILES: Final = 64


def main() -> None:
    """Entry point. Whatever the policy does, it ends here."""
    for limit, value in (
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_AS, _address_space()),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
    ):
        resource.setrlimit(limit, (value, value))
    with os.fdopen(os.dup(sys.stdout.fileno()), "wb") as answers:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # whatever the engine prints is no answer
        _answer(json.loads(sys.stdin.buffer.read()), answers)


def _address_space() -> int:
    """The limit that lets this process use `MEMORY_BYTES` in all.

    The engine's allocator reserves 256 GiB of addresses when it is loaded, and uses them for its
    books only: what it hands out it maps anew. So the limit is what there is now, and what
    is left to use. Source: proc(5), statm: size and resident, in pages.
    """
    size, resident = (
        int(pages) * resource.getpagesize()
        for pages in Path("/proc/self/statm").read_text(encoding="ascii").split()[:2]
    )
    return size + max(0, MEMORY_BYTES - resident)


def _answer(asked: dict[str, Any], answers: BinaryIO) -> None:
    try:
        if asked["do"] == "check":
            found = check(asked["policy"], asked["data"], asked["claims"])
        else:
            found = test(asked["policy"], asked["data"], asked["claims"])
    except PolicyInvalid as error:
        found = {"invalid": str(error)}
    answers.write(json.dumps(found).encode())


def check(policy: str, data: str, sample: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Compile a policy, and have it decide about a sample of claims.

    Raises:
        PolicyInvalid: it does not compile, fails on the sample, or takes too long for it.
    """
    compiled = CompiledPolicy.compile(policy, data)
    began = time.process_time()
    compiled.evaluate(sample)
    took = time.process_time() - began
    if took > MAX_DECISION_SECONDS:
        raise PolicyInvalid(
            f"the policy takes {took:.2f} s for one guest, at most {MAX_DECISION_SECONDS} s are "
            "accepted because all others wait; simplify it, or shorten its data"
        )
    return {}


def test(policy: str, data: str, claims: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The verdict, and each input beside its reference value (wire-client-api.md, `TestOpa`).

    Raises:
        PolicyInvalid: it does not compile, or fails on these claims.
    """
    allow = CompiledPolicy.compile(policy, data).evaluate(claims).allow
    reference = parse_data(data)
    info: dict[str, JsonValue] = {
        name: [value, reference.get(name)] for name, value in claims.items()
    }
    return {"allow": allow, "parseInfo": info}


test.__test__ = False  # type: ignore[attr-defined]  # pytest takes the name for a test
