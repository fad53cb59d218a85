"""Who is at the other end of a loopback connection: the uid that the kernel has for it.

Linux answers a question about one socket through `NETLINK_SOCK_DIAG` (sock_diag(7)): exact,
and as fast with a hundred thousand sockets as with ten. Where it does not, its tables in
`/proc/net` are searched. Those cost a millisecond for every hundred sockets, and a reading is no
snapshot: while others come and go, a row may be missing or be there twice.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

LOOKS: Final = 3
"""A row that is missing is looked for again; one miss in a hundred was seen under load."""

_ESTABLISHED: Final = 1  # TCP_ESTABLISHED, include/net/tcp_states.h
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

_NETLINK_SOCK_DIAG: Final = 4  # include/uapi/linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # include/uapi/linux/sock_diag.h
_NLM_F_REQUEST: Final = 1  # include/uapi/linux/netlink.h
_LOOPBACK_INTERFACE: Final = 1  # LOOPBACK_IFINDEX, include/net/flow.h
_ANSWER_SECONDS: Final = 1.0  # the kernel answers at once

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUESTION: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_PORTS: Final = struct.Struct("!HH")  # inet_diag_sockid: source, destination
_INTERFACE: Final = struct.Struct("=I8s")  # its interface and cookie, behind two addresses
_ANSWER: Final = struct.Struct("=BBxx4s16s16s12x12xII")  # inet_diag_msg: ..., uid, inode
_ANY_STATE: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8  # INET_DIAG_NOCOOKIE


class Endpoint(NamedTuple):
    """One end of a connection; IPv4 in the clothes of IPv6 is IPv4."""

    address: IpAddress
    port: int

    @classmethod
    def of(cls, address: IpAddress, port: int) -> Endpoint:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return cls(mapped or address, port)


class Seen(NamedTuple):
    """An established socket: its owner, and the number that no other socket has meanwhile."""

    uid: int
    inode: int


def owner(client: Endpoint, server: Endpoint) -> int | None:
    """The uid of the client's end of a connection between two ends on this host.

    None where it is not certain: the caller must then be given the least.

    The kernel reads a socket's state first and its owner afterwards, and shows a socket
    that was closed in between as root's. So a second look decides: a socket that is
    established by then was not closed when the first one read its owner.
    """
    look = _ask if _answers_about(server) else _search
    first = look(client, server)
    second = None if first is None else look(client, server)
    if first is None or second is None:
        return None
    return first.uid if first.inode == second.inode != 0 else None


def _answers_about(server: Endpoint) -> bool:
    """Whether the kernel answers questions: who listens there is always to be found.

    It says "not there" also where it has no module for them.
    """
    return _question(server, server._replace(port=0)) is not None


def _ask(client: Endpoint, server: Endpoint) -> Seen | None:
    """Asks for the one socket."""
    answer = _question(client, server)
    return None if answer is None else _read(answer, client, server)


def _question(near: Endpoint, far: Endpoint) -> bytes | None:
    """The kernel's inet_diag_msg of the socket between two ends, None where it tells of none."""
    six = near.address.version == 6
    question = b"".join(
        (
            _QUESTION.pack(
                socket.AF_INET6 if six else socket.AF_INET, socket.IPPROTO_TCP, 0, _ANY_STATE
            ),
            _PORTS.pack(near.port, far.port),
            near.address.packed.ljust(16, b"\0"),
            far.address.packed.ljust(16, b"\0"),
            _INTERFACE.pack(_LOOPBACK_INTERFACE, _NO_COOKIE),
        )
    )
    header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.settimeout(_ANSWER_SECONDS)
            kernel.sendto(header + question, (0, 0))
            answer, (sender, _) = kernel.recvfrom(4096)
    except OSError:
        return None
    if sender != 0 or len(answer) < _HEADER.size + _ANSWER.size:  # an error is shorter
        return None
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    return answer[_HEADER.size :]


def _read(answer: bytes, client: Endpoint, server: Endpoint) -> Seen | None:
    """Where the kernel finds no such socket, it answers with one that listens there."""
    family, state, ports, source, destination, uid, inode = _ANSWER.unpack_from(answer)
    from_port, to_port = _PORTS.unpack(ports)
    found = (
        Endpoint.of(_address(family, source), from_port),
        Endpoint.of(_address(family, destination), to_port),
    )
    return Seen(uid, inode) if state == _ESTABLISHED and found == (client, server) else None


def _address(family: int, packed: bytes) -> IpAddress:
    if family == socket.AF_INET6:
        return ipaddress.IPv6Address(packed)
    return ipaddress.IPv4Address(packed[:4])


def _search(client: Endpoint, server: Endpoint) -> Seen | None:
    """Searches the kernel's tables, again where there is no row; None where rows contradict."""
    for _ in range(LOOKS):
        found: set[Seen] = set()
        for table in _TABLES:
            try:
                found |= seen_in(table.read_bytes(), client, server)
            except OSError:
                continue
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def seen_in(table: bytes, client: Endpoint, server: Endpoint) -> set[Seen]:
    """The client's end of one connection, in the text of `/proc/net/tcp` or `tcp6`.

    Only a row in the state ESTABLISHED counts: the kernel shows sockets in TIME_WAIT with
    uid 0, and a stranger who closes at once must not pass for root. A row that is there
    twice is one.
    """
    found = set()
    for spelled in _spellings(client, server):
        _, *rows = table.split(spelled)
        for row in rows:
            # tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
            values = row.partition(b"\n")[0].split()
            if len(values) > 5:
                found.add(Seen(int(values[3]), int(values[5])))
    return found


def _spellings(client: Endpoint, server: Endpoint) -> tuple[bytes, ...]:
    """Both ends and the state as a row has them: `0100007F:1F90 0100007F:4E21 01`."""
    ends = [(end.address.packed, end.port) for end in (client, server)]
    forms = [ends]
    if client.address.version == 4:
        forms.append([(b"\0" * 10 + b"\xff\xff" + packed, port) for packed, port in ends])
    return tuple(
        f" {_spelled(*one)} {_spelled(*other)} {_ESTABLISHED:02X} ".encode() for one, other in forms
    )


def _spelled(packed: bytes, port: int) -> str:
    """32-bit words, each as a number in the host's order; port in hex."""
    words = (int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
