"""Program that creates keys until its audit trail is full, and after that has been fixed.

    python -m tests.faults.full_disk ROOT

Its output, in JSON: the keys that were created, and the number of failures.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from tests.faults.changes import ADMIN
from tests.support.events import RecordedEvents
from tests.support.tees import PROVING
from tests.support.usecases import opened
from verdictd_py.errors import StorageError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.storage.layout import prepare

_FILE_BYTES = 2000  # some six records; a key has 32 bytes


async def main(root: Path) -> None:
    prepare(root, PROVING)
    trail = AuditTrail(root / "audit", RecordedEvents())
    keys = opened(root, trail).administration.keys
    trail.open()
    created, failed = [], 0
    for limit in (_FILE_BYTES, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for _ in range(10):
            try:
                created.append(str(await keys.create(ADMIN)))
            except StorageError:
                failed += 1
    trail.close()
    json.dump({"created": created, "failed": failed}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
