"""Options of `podman run` for a quadlet: `python3 -m tools.walk.quadlet FILE.container IMAGE`.

podman before 4.4 has no generator, and no systemd runs here: so podman is given the options of the
file. Left out is what namespaces without control groups and with the limits of this host cannot
give: memory, number of processes and of open files.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

OPTIONS: Final = {
    "ContainerName": "--name={}",
    "DropCapability": "--cap-drop={}",
    "Group": "",
    "NoNewPrivileges": "--security-opt=no-new-privileges",
    "PublishPort": "-p {}",
    "ReadOnly": "--read-only",
    "Secret": "--secret={}",
    "Tmpfs": "--tmpfs={}",
    "Ulimit": "--ulimit={}",
    "User": "--user={}",
    "Volume": "--volume={}",
}
"""Key of the group [Container] -> option of `podman run`."""

OMITTED: Final = ("Image", "Notify", "PodmanArgs", "Exec")


def words(text: str, image: str) -> Iterator[str]:
    """Yield the options, the image and the command of a quadlet.

    Raises:
        KeyError: a key is unknown here.
    """
    group, command = "", ""
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if line.startswith("["):
            group = line
        elif group != "[Container]" or not equals or line.startswith("#") or _is_limit(line):
            continue
        elif key == "Exec":
            command = value
        elif key not in OMITTED:
            yield from OPTIONS[key].format(value.replace(".volume:", ":")).split()
    yield image
    yield from shlex.split(command)


def _is_limit(line: str) -> bool:
    return line.startswith("Ulimit=nofile")


if __name__ == "__main__":
    print(shlex.join(words(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2])))
