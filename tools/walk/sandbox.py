"""Namespaces of mounts, network and processes: what a page does to the host ends with its run.

The checkout and the directories that pages write (`/etc`, `/opt`, `/run`) are overlays whose
changes are in memory. The network is a loopback of its own, so that no port is taken, and the
processes are killed with the first one. This needs root.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

OVERLAID: Final = ("/etc", "/opt", "/run")
FRESH: Final = ("/opt/verdictd", "/opt/verdictd-py", "/etc/verdictd-py", "/run/image-security")
"""What pages create, absent at first even if the host has it."""

_SIOCSIFFLAGS: Final = 0x8914
_IFF_UP: Final = 0x1


class Unusable(Exception):
    """The host has no such namespaces; the text says what is needed."""


def enter(command: Sequence[str]) -> int:
    """Run a command in namespaces of its own; return its exit status.

    Raises:
        Unusable: this user may not, or the programs are missing.
    """
    if os.geteuid() != 0:
        raise Unusable("namespaces of mounts, network and processes need root: sudo ./dev walk")
    unshare = shutil.which("unshare")
    if unshare is None:
        raise Unusable("unshare is not installed: apt-get install util-linux")
    own = ("--mount", "--net", "--pid", "--fork", "--mount-proc", "--kill-child")
    tried = subprocess.run([unshare, *own, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        raise Unusable(f"this machine gives no namespaces: {tried.stderr.strip()}")
    return subprocess.run([unshare, *own, *command], check=False).returncode


def furnish(private: Path, checkout: Path) -> None:
    """Mount the private directory and the overlays, and bring loopback up.

    Args:
        private: an existing, empty directory; it becomes a file system in memory.

    Raises:
        Unusable: the kernel refuses a mount.
    """
    _mount("-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(private))
    for number, target in enumerate((str(checkout), *OVERLAID)):
        upper, work = private / f"upper{number}", private / f"work{number}"
        upper.mkdir(mode=0o755)
        work.mkdir()
        layers = f"lowerdir={target},upperdir={upper},workdir={work}"
        _mount("-t", "overlay", "-o", layers, "overlay", target)
    for path in FRESH:
        shutil.rmtree(path, ignore_errors=True)
    _loopback()


def _mount(*words: str) -> None:
    ended = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise Unusable(f"cannot mount: {ended.stderr.strip()}")


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh14x", b"lo", _IFF_UP)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)
