"""Names and addresses by which clients can reach this host, for a self-signed certificate.

They come from the kernel and from /etc/hosts, never from the network: a name service that does not
answer must not delay the start.
"""

from __future__ import annotations

import array
import fcntl
import ipaddress
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_ADDRESSES: Final = 64
"""A certificate with more becomes long; a host of many containers can have hundreds."""

_MAX_NAMES: Final = 32
_SIOCGIFCONF: Final = 0x8912  # linux/sockios.h
_IFREQ_BYTES: Final = 16 + max(24, struct.calcsize("P") * 2 + 8)  # struct ifreq, netdevice(7)
_MAX_IFREQS: Final = 512
_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*\.?")


def host_addresses() -> tuple[IpAddress, ...]:
    """Return the addresses of this host's interfaces, IPv4 first, at most `MAX_ADDRESSES`.

    Addresses that only have a meaning on one link (fe80::/10) are omitted.
    """
    found = dict.fromkeys((*_ipv4_addresses(), *_ipv6_addresses()))
    usable = [address for address in found if not address.is_link_local]
    return tuple(usable[:MAX_ADDRESSES])


def host_names(addresses: tuple[IpAddress, ...], hosts: Path = Path("/etc/hosts")) -> list[str]:
    """Return this host's name, and the names of its addresses in /etc/hosts, sorted."""
    names = {socket.gethostname()}
    with suppress(OSError):
        for line in hosts.read_text(encoding="utf-8", errors="replace").splitlines():
            address, *of_address = line.partition("#")[0].split() or [""]
            with suppress(ValueError):
                if ipaddress.ip_address(address) in addresses:
                    names.update(of_address)
    return sorted(name for name in names if _NAME.fullmatch(name))[:_MAX_NAMES]


def _ipv4_addresses() -> list[IpAddress]:
    buffer = array.array("B", bytes(_IFREQ_BYTES * _MAX_IFREQS))
    where, size = buffer.buffer_info()
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            answer = fcntl.ioctl(any_socket, _SIOCGIFCONF, struct.pack("iP", size, where))
    except OSError:  # a sandbox may forbid either; the certificate then lacks these addresses
        return []
    used = min(struct.unpack_from("i", answer)[0], size)
    entries = range(0, used, _IFREQ_BYTES)
    return [ipaddress.IPv4Address(bytes(buffer[at + 20 : at + 24])) for at in entries]


def _ipv6_addresses() -> list[IpAddress]:
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:  # the kernel has no IPv6
        return []
    return [ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in lines]
