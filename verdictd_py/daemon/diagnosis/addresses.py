"""Checks of the addresses of the listeners: whether they can be bound."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from verdictd_py.config import Address, Settings
from verdictd_py.daemon.diagnosis import paths
from verdictd_py.daemon.diagnosis.finding import Finding, Result, summary
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import sockets

_MAX_PATH: Final = 107
"""Bytes of the path of a unix socket (unix(7))."""

_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
_LISTENING: Final = "0A"


def ports(settings: Settings, *, running: bool) -> Iterator[Finding]:
    """Check that each listener can bind its address.

    Args:
        running: whether a broker runs on the data directory; its own addresses are in use then.
    """
    used: dict[str, str] = {}
    for name in ("listen", "kbs_http", "status", "console", "client_api", "keyprovider_api"):
        text = getattr(settings, name)
        if text is None:
            continue
        option = "--" + name.replace("_", "-")
        address = Address.parse(text, unix_allowed=True)
        if name == "client_api":
            address = settings.client_api_addresses[0]
            if len(settings.client_api_addresses) > 1 and not sockets.exists(address):
                address = settings.client_api_addresses[1]
        problems = list(_problems(option, address, used, running=running))
        yield from summary("ports", f"{option} {address}", problems, "it can be bound")
        if address.unix or address.port:
            used[str(address)] = option


def _problems(
    option: str, address: Address, used: dict[str, str], *, running: bool
) -> Iterator[Finding]:
    subject = f"{option} {address}"
    if str(address) in used:
        text = f"{used[str(address)]} has the same address; choose another {option}"
        yield Finding("ports", subject, Result.FAILURE, text)
        return
    problem = _of_socket(Path(address.unix), option) if address.unix else _of_port(address, option)
    if not problem:
        return
    if running and _listens(address):
        yield Finding("ports", subject, Result.OK, "a broker that runs on this data directory")
    elif not address.unix and _listens_as_root(address.port) and os.geteuid() != 0:
        text = f"{problem}; nothing is wrong if systemd passes this socket to the broker"
        yield Finding("ports", subject, Result.WARNING, text)
    else:
        yield Finding("ports", subject, Result.FAILURE, problem)


def _of_port(address: Address, option: str) -> str:
    try:
        sockets.bind(address, option=option).close()
    except ConfigError as error:
        return str(error)
    return ""


def _of_socket(path: Path, option: str) -> str:
    """Return why a unix socket cannot be created; empty if it can be."""
    if len(os.fsencode(path)) > _MAX_PATH:
        return f"the path has more than {_MAX_PATH} bytes; choose a shorter {option}"
    try:
        parent = path.parent.stat()
    except OSError as error:
        cause = (error.strerror or "").lower()
        return f"cannot create the socket in {path.parent}: {cause}; create that directory"
    if not stat.S_ISDIR(parent.st_mode):
        return f"{path.parent} is not a directory; choose another {option}"
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"this user cannot create files in {path.parent}; change its owner or its mode"
    return _of_existing(path, option)


def _of_existing(path: Path, option: str) -> str:
    """Return why what exists at the path of a socket cannot be replaced; empty if it can be."""
    if paths.exists(path) and not paths.is_socket(path):
        return f"{path} exists and is not a socket; choose another {option}"
    if paths.is_socket(path) and _connects(path):
        return f"another process listens there; stop it, or choose another {option}"
    return ""


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def _listens(address: Address) -> bool:
    """Return whether some process listens at an address."""
    if address.unix:
        return _connects(Path(address.unix))
    return any(port == address.port for port, _ in _listening())


def _listens_as_root(port: int) -> bool:
    return any(found == port and uid == 0 for found, uid in _listening())


def _listening() -> Iterator[tuple[int, int]]:
    """Yield port and user of each listening TCP socket (proc_net_tcp.rst of the kernel)."""
    for table in _TABLES:
        try:
            lines = table.read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if fields[3] == _LISTENING:
                yield int(fields[1].rpartition(":")[2], 16), int(fields[7])
