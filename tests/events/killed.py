"""Write audit records in processes that are killed, one after the other, at arbitrary moments.

Usage: python -m tests.events.killed DIRECTORY KILLS SEED
Prints the kid of each record whose write was acknowledged.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

from tests.events.trails import SIGNER, created
from tests.support.events import RecordedEvents
from verdictd_py.events.audit import AuditTrail
from verdictd_py.events.retention import Rotation


def write(directory: Path, start: int, acknowledge: int) -> None:
    """Record until this process is killed."""
    trail = AuditTrail(
        directory, RecordedEvents(), signer=SIGNER, rotation=Rotation(size=16 * 1024)
    )
    trail.open()
    number = start
    while True:
        trail.record(created(number))
        os.write(acknowledge, b"%d\n" % number)
        number += 1


def main(directory: Path, kills: int, seed: str) -> None:
    random.seed(seed)
    start = 0
    for _ in range(kills):
        read, acknowledge = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            write(directory, start, acknowledge)
        os.close(acknowledge)
        wanted = random.choice((0, 1, 2, 30))  # noqa: S311  # a test's choice
        with os.fdopen(read, "rb") as lines:
            acknowledged = [lines.readline() for _ in range(wanted)]
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            acknowledged += lines.readlines()
        sys.stdout.write("".join(f"key-{int(line)}\n" for line in acknowledged))
        sys.stdout.flush()
        start += 1000
    trail = AuditTrail(directory, RecordedEvents(), signer=SIGNER)
    trail.open()
    trail.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
