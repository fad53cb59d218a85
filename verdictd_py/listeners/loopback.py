"""Owner of the client's end of a loopback connection: the uid that the kernel reports.

Linux answers queries about one socket through `NETLINK_SOCK_DIAG` (sock_diag(7)). The answer
is exact, and as fast with a hundred thousand sockets as with ten. Where the kernel does not
support that, its tables in `/proc/net` are searched. This takes a millisecond per hundred
sockets, and a table is not a consistent snapshot: while sockets are opened and closed, a row
may be missing or duplicated.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

ATTEMPTS: Final = 3
"""Readings of the tables before a row counts as missing; under load, one in a hundred misses it."""

_ESTABLISHED: Final = 1  # TCP_ESTABLISHED, include/net/tcp_states.h
_TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))

_NETLINK_SOCK_DIAG: Final = 4  # include/uapi/linux/netlink.h
_SOCK_DIAG_BY_FAMILY: Final = 20  # include/uapi/linux/sock_diag.h
_NLM_F_REQUEST: Final = 1  # include/uapi/linux/netlink.h
_LOOPBACK_INTERFACE: Final = 1  # LOOPBACK_IFINDEX, include/net/flow.h

_HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_QUERY: Final = struct.Struct("=BBBxI")  # inet_diag_req_v2: family, protocol, extensions, states
_PORTS: Final = struct.Struct("!HH")  # inet_diag_sockid: source, destination
_INTERFACE: Final = struct.Struct("=I8s")  # its interface and cookie, after two addresses
_ANSWER: Final = struct.Struct("=BBxx4s16s16s12x12xII")  # inet_diag_msg: ..., uid, inode
_MAPPED: Final = b"\0" * 10 + b"\xff\xff"  # RFC 4291, 2.5.5.2
_ANY_STATE: Final = 0xFFFFFFFF
_NO_COOKIE: Final = b"\xff" * 8  # INET_DIAG_NOCOOKIE


class Endpoint(NamedTuple):
    """One end of a connection; IPv4 addresses encoded as IPv6 are converted to IPv4."""

    address: IpAddress
    port: int

    @classmethod
    def of(cls, address: IpAddress, port: int) -> Endpoint:
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return cls(mapped or address, port)


class SocketOwner(NamedTuple):
    """Owner of an established socket, and its inode, which identifies the socket."""

    uid: int
    inode: int


def owner(client: Endpoint, server: Endpoint) -> int | None:
    """Return the uid of the client's end of a connection between two ends on this host.

    None if it is uncertain: the caller must then get the fewest rights.

    The kernel reads the state of a socket before its owner, and reports root as the owner of a
    socket that was closed in between. Therefore a second query decides: a socket that is still
    established was not closed when the first query read its owner.
    """
    return _owner(client, server, listening=server)


def server_owner(client: Endpoint, server: Endpoint) -> int | None:
    """Return the uid of the server's end of a connection, as `owner` does for the client's.

    A connection that the server has not accepted yet has no owner.
    """
    return _owner(server, client, listening=server)


def _owner(near: Endpoint, far: Endpoint, *, listening: Endpoint) -> int | None:
    owners = _query_owners(near, far)
    if None in owners and not supports_queries(listening):
        found = _search_tables(near, far)
        owners = found, None if found is None else _search_tables(near, far)
    first, second = owners
    if first is None or second is None:
        return None
    return first.uid if first.inode == second.inode != 0 else None


def can_identify(server: Endpoint) -> bool:
    """Return whether this process can learn the owners of connections to a listening socket."""
    return supports_queries(server) or any(os.access(table, os.R_OK) for table in _TABLES)


def supports_queries(server: Endpoint) -> bool:
    """Return whether the kernel answers queries: the listening socket must be found.

    The kernel answers "not found" also if it lacks the module for such queries.
    """
    (answer,) = _query(_query_about(server, server._replace(port=0)))
    return answer is not None


def _query_owners(near: Endpoint, far: Endpoint) -> tuple[SocketOwner | None, SocketOwner | None]:
    """Return the owner of the socket between two ends by two queries, one after the other."""
    query = _query_about(near, far)
    first, second = (
        None if answer is None else _read(answer, near, far) for answer in _query(query, query)
    )
    return first, second


def _query_about(near: Endpoint, far: Endpoint) -> bytes:
    """Return a query about the socket between two ends."""
    six = near.address.version == 6
    query = b"".join(
        (
            _QUERY.pack(
                socket.AF_INET6 if six else socket.AF_INET, socket.IPPROTO_TCP, 0, _ANY_STATE
            ),
            _PORTS.pack(near.port, far.port),
            near.address.packed.ljust(16, b"\0"),
            far.address.packed.ljust(16, b"\0"),
            _INTERFACE.pack(_LOOPBACK_INTERFACE, _NO_COOKIE),
        )
    )
    header = _HEADER.pack(_HEADER.size + len(query), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, 0, 0)
    return header + query


def _query(*queries: bytes) -> list[bytes | None]:
    """Return the kernel's inet_diag_msg for each query, None without one.

    The kernel handles one query after the other, and its answers wait when sendto(2) returns.
    """
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
            kernel.sendto(b"".join(queries), (0, 0))
            return [_answer(*kernel.recvfrom(4096, socket.MSG_DONTWAIT)) for _ in queries]
    except OSError:
        return [None] * len(queries)


def _answer(answer: bytes, address: tuple[int, int]) -> bytes | None:
    """Return the inet_diag_msg in an answer; None if the kernel reports an error."""
    sender, _ = address
    if sender != 0 or len(answer) < _HEADER.size + _ANSWER.size:  # an error is shorter
        return None
    if _HEADER.unpack_from(answer)[1] != _SOCK_DIAG_BY_FAMILY:
        return None
    return answer[_HEADER.size :]


def _read(answer: bytes, client: Endpoint, server: Endpoint) -> SocketOwner | None:
    """Read the owner in an answer; None if the answer is about another socket.

    If the kernel finds no such socket, it answers with one that listens there.
    """
    family, state, ports, source, destination, uid, inode = _ANSWER.unpack_from(answer)
    if state != _ESTABLISHED or ports != _PORTS.pack(client.port, server.port):
        return None
    ends = (client.address, source), (server.address, destination)
    if all(_is_address(family, packed, address) for address, packed in ends):
        return SocketOwner(uid, inode)
    return None


def _is_address(family: int, packed: bytes, address: IpAddress) -> bool:
    """Return whether 16 bytes of an answer are this address, which may be encoded as IPv6."""
    expected = address.packed
    if family != socket.AF_INET6:
        return address.version == 4 and packed[:4] == expected
    return packed == (_MAPPED + expected if address.version == 4 else expected)


def _search_tables(client: Endpoint, server: Endpoint) -> SocketOwner | None:
    """Search the kernel's tables, repeatedly if there is no row; None if rows contradict."""
    for _ in range(ATTEMPTS):
        owners: set[SocketOwner] = set()
        for table in _TABLES:
            try:
                owners |= owners_in(table.read_bytes(), client, server)
            except OSError:
                continue
        if owners:
            return owners.pop() if len(owners) == 1 else None
    return None


def owners_in(table: bytes, client: Endpoint, server: Endpoint) -> set[SocketOwner]:
    """Return the owners of the client's end in the text of `/proc/net/tcp` or `tcp6`.

    Only rows in the state ESTABLISHED count: the kernel lists sockets in TIME_WAIT with uid 0,
    and a client that closes its connection at once must not pass for root. Duplicate rows
    count once.
    """
    owners = set()
    for spelled in _spellings(client, server):
        _, *rows = table.split(spelled)
        for row in rows:
            # tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode
            values = row.partition(b"\n")[0].split()
            if len(values) > 5:
                owners.add(SocketOwner(int(values[3]), int(values[5])))
    return owners


def _spellings(client: Endpoint, server: Endpoint) -> tuple[bytes, ...]:
    """Return both ends and the state as rows contain them: `0100007F:1F90 0100007F:4E21 01`."""
    ends = [(end.address.packed, end.port) for end in (client, server)]
    forms = [ends]
    if client.address.version == 4:
        forms.append([(_MAPPED + packed, port) for packed, port in ends])
    return tuple(
        f" {_spelled(*local)} {_spelled(*remote)} {_ESTABLISHED:02X} ".encode()
        for local, remote in forms
    )


def _spelled(packed: bytes, port: int) -> str:
    """Return an address as hexadecimal 32-bit words in the host's byte order, and the port."""
    words = (int.from_bytes(packed[i : i + 4], sys.byteorder) for i in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"
