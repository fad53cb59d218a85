"""A real registry on loopback, without TLS, in a directory of its own."""

from __future__ import annotations

import re
import subprocess
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from tests.peers.clients import program

_CONFIGURATION = """version: 0.1
log: {{level: info, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:0"}}
"""
_LISTENING = re.compile(r"listening on (127\.0\.0\.1:\d+)")


@contextmanager
def running_registry(directory: Path) -> Iterator[str]:
    """Starts `docker-registry`; its address."""
    configuration = directory / "registry.yml"
    configuration.write_text(_CONFIGURATION.format(root=directory / "registry"))
    process = subprocess.Popen(
        [program("docker-registry"), "serve", configuration],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stderr is not None
            found = next(filter(None, map(_LISTENING.search, process.stderr)), None)
            assert found is not None, "docker-registry ended at once"
            Thread(
                target=deque, args=(process.stderr, 0), daemon=True
            ).start()  # a full pipe stops it
            yield found[1]
        finally:
            process.kill()
