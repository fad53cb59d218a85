"""Another broker on a data directory, which makes one change and ends.

python -m tests.faults.another ROOT policy NAME < TEXT
python -m tests.faults.another ROOT data NAME < TEXT
python -m tests.faults.another ROOT retire SET
python -m tests.faults.another ROOT create KEY
python -m tests.faults.another ROOT delete KEY
python -m tests.faults.another ROOT resource PATH < CONTENT
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from tests.faults.changes import ADMIN
from tests.support.command import environment
from tests.support.events import RecordedEvents
from tests.support.usecases import opened
from verdictd_py.domain.secrets import SecretBytes


async def another(root: Path, what: str, name: str, content: bytes = b"") -> None:
    """Make a change in another process; it is acknowledged when this returns."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.faults.another", str(root), what, name),
        stdin=asyncio.subprocess.PIPE,
        env=environment(),
    )
    await process.communicate(content)
    assert process.returncode == 0


async def main(root: Path, what: str, name: str) -> None:
    admin = opened(root, RecordedEvents()).administration
    match what:
        case "policy":
            await admin.documents.set_policy(ADMIN, name, sys.stdin.buffer.read())
        case "data":
            await admin.documents.set_reference(ADMIN, name, sys.stdin.buffer.read())
        case "retire":
            await admin.sets.retire(ADMIN, "tdx", name)
        case "create":
            await admin.keys.create(ADMIN, name)
        case "delete":
            await admin.keys.delete(ADMIN, name)
        case "resource":
            content = SecretBytes(sys.stdin.buffer.read())
            await admin.resources.set(ADMIN, name, content)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
