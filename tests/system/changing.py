"""A second broker for test_two_processes: changes documents of a data directory.

    python -m tests.system.changing ROOT add PREFIX COUNT
    python -m tests.system.changing ROOT retire PREFIX COUNT
    python -m tests.system.changing ROOT replace NAME COUNT
    python -m tests.system.changing ROOT certificates FILE ...

It prints a line when it is ready, and begins once its standard input ends.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.support.events import RecordedEvents
from tests.support.tees import TDX
from tests.support.usecases import opened
from verdictd_py.domain.callers import ROLES, Caller

OPERATOR = Caller("operator", ROLES["operator"])
VALUE = "ab" * 48


async def main(root: Path, what: str, *words: str) -> None:
    admin = opened(root, RecordedEvents()).administration
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.read()
    match what, *words:
        case ["add", prefix, count]:
            for number in range(int(count)):
                await admin.sets.add(OPERATOR, "tdx", f"{prefix}{number}", {"rtmr1": [VALUE]}, "")
        case ["retire", prefix, count]:
            for number in range(int(count)):
                await admin.sets.retire(OPERATOR, "tdx", f"{prefix}{number}")
        case ["replace", *names]:
            for name in names:
                sample = TDX.claims[name].form.sample
                await admin.references.replace(OPERATOR, "tdx", {name: [sample]})
        case ["certificates", *files]:
            for file in files:
                certificate = Path(file).read_bytes()
                await admin.resources.import_certificates(OPERATOR, certificate)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
