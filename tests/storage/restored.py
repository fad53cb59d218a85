"""Program that kills a restoration of a backup before each of its system calls.

    python -m tests.storage.restored ROOT

It prints, for each kill, which directories a broker that starts then would find, and what is left
after the restoration is repeated.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from tests.storage.interrupted import signalled_at
from verdictd_py.formats.backup import BackedUpFile, Backup
from verdictd_py.storage import snapshots

NAMES = ("opa/policy", "image/policy.json", "resources/a/b/c", "keys/k", "tokens/keys")
BACKUP = Backup(
    "2026-11-28T00:00:00Z",
    tuple(BackedUpFile(tuple(name.split("/")), b"new " + name.encode(), 0o600) for name in NAMES),
)


def found(root: Path) -> dict[str, str]:
    """Return which content each directory has: `old`, `new`, `mixed`, or `absent`."""
    states = {}
    for name in NAMES:
        file = root / name
        top = name.partition("/")[0]
        states[top] = file.read_text().partition(" ")[0] if file.exists() else "absent"
        if states[top] == "absent" and (root / top).exists():
            states[top] = "mixed"
    return states


def sweep(root: Path) -> list[dict[str, object]]:
    """Return what is found after a kill before each system call."""
    results: list[dict[str, object]] = []
    for call in count():
        shutil.rmtree(root, ignore_errors=True)
        for name in NAMES:
            file = root / name
            file.parent.mkdir(parents=True)
            file.write_text(f"old {name}")
        child = os.fork()
        if child == 0:
            sys.setprofile(signalled_at(signal.SIGKILL, str(call)))
            snapshots.restore(root, BACKUP, replace=True)
            sys.setprofile(None)
            os._exit(0)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        states = found(root)
        if killed:
            snapshots.restore(root, BACKUP, replace=True)
        old = [file for file in root.glob("before-restore-*/*/**/*") if file.is_file()]
        contents = [file.read_text() for file in old]
        results.append(
            {
                "killed": killed,
                "states": states,
                "then": sorted(set(found(root).values())),
                "kept": all(f"old {name}" in contents for name in NAMES),
                "left": [file.name for file in root.glob(".*")],
            }
        )
        if not killed:
            return results
    raise AssertionError


if __name__ == "__main__":
    json.dump(sweep(Path(sys.argv[1])), sys.stdout)
