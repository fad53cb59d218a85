"""Owner of a loopback connection, from queries to the kernel and from its tables."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import pytest

from verdictd_py.listeners import loopback
from verdictd_py.listeners.loopback import ATTEMPTS, Endpoint, SocketOwner, owner, owners_in

HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid"
IPV4 = ipaddress.ip_address("127.0.0.1")
IPV6 = ipaddress.ip_address("::1")
CLIENT = Endpoint(IPV4, 0xD431)
SERVER = Endpoint(IPV4, 0x4E21)
STRANGER = 65534
CHURN = 500  # connections that come and go meanwhile

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def row(local: str, remote: str, state: str, uid: int, inode: int = 4242) -> str:
    return (
        f"   0: {local} {remote} {state} 00000000:00000000 00:00000000 00000000  {uid}"
        f"        0 {inode} 1 0 20 4 30 10 -1"
    )


def table(*rows: str) -> bytes:
    return "\n".join([HEADER, *rows, ""]).encode()


OURS = row("0100007F:D431", "0100007F:4E21", "01", 1000)


@contextmanager
def connection(
    family: socket.AddressFamily = socket.AF_INET, host: str = "127.0.0.1", *, uid: int = 0
) -> Iterator[tuple[socket.socket, Endpoint, Endpoint]]:
    """Return the client's socket of a real connection that `uid` opened, and both ends."""
    listening = "::1" if host == "::1" else "127.0.0.1"
    with socket.create_server((listening, 0), family=_family(listening)) as server:
        port = server.getsockname()[1]
        if uid:
            os.seteuid(uid)
        try:
            client = socket.socket(family)
        finally:
            if uid:
                os.seteuid(0)
        with client:
            client.connect((host, port))
            accepted, _ = server.accept()
            with accepted:
                address = ipaddress.ip_address(client.getsockname()[0])
                own = Endpoint.of(address, client.getsockname()[1])
                yield client, own, Endpoint.of(ipaddress.ip_address(listening), port)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


FAMILIES = [
    (socket.AF_INET, "127.0.0.1"),
    (socket.AF_INET6, "::1"),
    (socket.AF_INET6, "::ffff:127.0.0.1"),
]


@pytest.fixture(params=["asked", "searched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run the test with queries only, and with tables only."""
    if request.param == "asked":
        monkeypatch.setattr(loopback, "_TABLES", ())
    else:
        monkeypatch.setattr(loopback, "_query", lambda *queries: [None] * len(queries))
    return str(request.param)


@pytest.mark.usefixtures("way")
class TestRealConnection:
    @pytest.mark.parametrize(("family", "host"), FAMILIES)
    def test_the_owner_is_returned(self, family: socket.AddressFamily, host: str) -> None:
        with connection(family, host) as (_, client, server):
            assert owner(client, server) == os.geteuid()

    @needs_root
    @pytest.mark.parametrize(("family", "host"), FAMILIES)
    def test_the_owner_may_be_another_user(self, family: socket.AddressFamily, host: str) -> None:
        with connection(family, host, uid=STRANGER) as (_, client, server):
            assert owner(client, server) == STRANGER

    @needs_root
    def test_a_closed_connection_has_no_owner(self) -> None:
        """The kernel reports root as the owner of a closed socket."""
        with connection(uid=STRANGER) as (ours, client, server):
            ours.close()
            assert owner(client, server) is None

    def test_a_connection_with_another_port_or_address_does_not_match(self) -> None:
        with connection() as (_, client, server):
            elsewhere = ipaddress.ip_address("127.0.0.2")
            for other in (
                server._replace(port=server.port ^ 1),
                server._replace(address=elsewhere),
                Endpoint(IPV6, server.port),
            ):
                assert owner(client, other) is None
            assert owner(client._replace(address=elsewhere), server) is None
            assert owner(server, client) == os.geteuid()  # our own end of it
            assert owner(Endpoint(IPV4, 0), server) is None  # who listens is no caller


def test_queries_find_the_owner_while_other_sockets_open_and_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tables are not a snapshot: one reading in a hundred missed its row."""
    monkeypatch.setattr(loopback, "_TABLES", ())
    with connection() as (_, client, server), socket.create_server(("127.0.0.1", 0)) as busy:
        held: deque[socket.socket] = deque()
        found = []
        for _ in range(CHURN):
            held.append(socket.create_connection(busy.getsockname()))
            held.append(busy.accept()[0])
            if len(held) > 50:
                held.popleft().close()
            found.append(owner(client, server))
        for each in held:
            each.close()
    assert found == [os.geteuid()] * CHURN


def test_the_tables_are_not_searched_if_the_kernel_answers_queries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise clients that disconnect at once could make the broker read megabytes."""
    monkeypatch.setattr(loopback, "_search_tables", lambda client, server: pytest.fail("searched"))
    with connection() as (ours, client, server):
        ours.close()
        assert owner(client, server) is None


class TestTables:
    """Search of the tables, for kernels that answer no queries."""

    @pytest.fixture(autouse=True)
    def unanswered(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loopback, "_NETLINK_SOCK_DIAG", 31)  # no such protocol

    def readings(self, monkeypatch: pytest.MonkeyPatch, *texts: bytes) -> None:
        """Replace the content of the table at each reading, cyclically."""
        turns = cycle(texts)
        monkeypatch.setattr(loopback, "_TABLES", (Path("/proc/net/tcp"),))
        monkeypatch.setattr(Path, "read_bytes", lambda path: next(turns))

    def test_a_missing_row_is_searched_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readings(monkeypatch, *[table()] * (ATTEMPTS - 1), table(OURS))
        assert owner(CLIENT, SERVER) == 1000

    def test_a_row_that_is_always_missing_has_no_owner(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.readings(monkeypatch, table())
        assert owner(CLIENT, SERVER) is None

    def test_a_duplicate_row_counts_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readings(monkeypatch, table(OURS, OURS))
        assert owner(CLIENT, SERVER) == 1000

    def test_a_second_search_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The row of a socket that was closed meanwhile may have had any owner."""
        self.readings(monkeypatch, table(OURS), *[table()] * ATTEMPTS)
        assert owner(CLIENT, SERVER) is None

    @pytest.mark.parametrize(("uid", "inode"), [(0, 4242), (1000, 4243), (0, 4243)])
    def test_contradicting_rows_have_no_owner(
        self, monkeypatch: pytest.MonkeyPatch, uid: int, inode: int
    ) -> None:
        other = row("0100007F:D431", "0100007F:4E21", "01", uid, inode)
        self.readings(monkeypatch, table(OURS, other))
        assert owner(CLIENT, SERVER) is None

    def test_an_unreadable_table_has_no_owner(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loopback, "_TABLES", (tmp_path / "none",))
        assert owner(CLIENT, SERVER) is None

    def test_tables_after_an_unreadable_one_are_searched(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Either table may be missing, and the row may be in the other one."""
        (tmp_path / "tcp6").write_bytes(table(OURS))
        monkeypatch.setattr(loopback, "_TABLES", (tmp_path / "none", tmp_path / "tcp6"))
        assert owner(CLIENT, SERVER) == 1000


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        ([SocketOwner(7, 1), SocketOwner(7, 1)], 7),
        ([SocketOwner(0, 1), None], None),  # closed meanwhile: its owner may never have been root
        ([SocketOwner(0, 1), SocketOwner(0, 2)], None),  # and somebody else has the port by now
        ([SocketOwner(0, 0), SocketOwner(0, 0)], None),  # of no process any more
    ],
)
def test_a_second_query_decides(
    monkeypatch: pytest.MonkeyPatch, looks: list[SocketOwner | None], found: int | None
) -> None:
    monkeypatch.setattr(loopback, "supports_queries", lambda server: True)
    monkeypatch.setattr(loopback, "_query_owners", lambda client, server: tuple(looks))
    assert owner(CLIENT, SERVER) == found


def inet_diag_msg(*, state: int = 1, client: int = 0xD431, server: int = 0x4E21) -> bytes:
    """Return an answer by include/uapi/linux/inet_diag.h: owner 9, inode 5."""
    addresses = (IPV4.packed + bytes(12)) * 2
    ends = struct.pack("!HH", client, server) + addresses + bytes(12)
    return struct.pack("=BBBB", 2, state, 0, 0) + ends + struct.pack("=IIIII", 0, 0, 0, 9, 5)


class TestAnswer:
    """Answers built by hand."""

    answer = staticmethod(inet_diag_msg)

    def test_an_established_socket_has_an_owner(self) -> None:
        assert loopback._read(self.answer(), CLIENT, SERVER) == SocketOwner(9, 5)

    @pytest.mark.parametrize("state", [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12])
    def test_a_socket_in_another_state_has_no_owner(self, state: int) -> None:
        assert loopback._read(self.answer(state=state), CLIENT, SERVER) is None

    def test_an_answer_about_another_socket_has_no_owner(self) -> None:
        for answer in (self.answer(client=1), self.answer(server=1)):
            assert loopback._read(answer, CLIENT, SERVER) is None


class AnsweringSocket:
    """Netlink socket that receives one given message for each query, whatever is sent."""

    def __init__(self, message: bytes, sender: int) -> None:
        self._received = message, (sender, 0)
        self._waiting = 0

    def __call__(self, *_: int) -> AnsweringSocket:
        return self

    def __enter__(self) -> AnsweringSocket:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sendto(self, message: bytes, address: tuple[int, int]) -> None:
        assert address == (0, 0)  # the kernel
        self._waiting += len(message) // 72  # nlmsghdr and inet_diag_req_v2

    def recvfrom(self, size: int, flags: int) -> tuple[bytes, tuple[int, int]]:
        assert flags == socket.MSG_DONTWAIT
        if not self._waiting:
            raise BlockingIOError
        self._waiting -= 1
        return self._received


class TestMessage:
    """Netlink messages around the answers; an answer that is not certain has no owner."""

    def owner_in(
        self,
        monkeypatch: pytest.MonkeyPatch,
        answer: bytes,
        *,
        kind: int = 20,  # SOCK_DIAG_BY_FAMILY
        sender: int = 0,
    ) -> int | None:
        header = struct.pack("=IHHII", 16 + len(answer), kind, 0, 0, 0)
        monkeypatch.setattr(socket, "socket", AnsweringSocket(header + answer, sender))
        monkeypatch.setattr(loopback, "supports_queries", lambda server: True)
        return owner(CLIENT, SERVER)

    def test_a_complete_answer_of_the_kernel_has_an_owner(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.owner_in(monkeypatch, inet_diag_msg()) == 9

    def test_attributes_after_the_answer_are_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.owner_in(monkeypatch, inet_diag_msg() + bytes(8)) == 9

    def test_an_answer_that_is_not_from_the_kernel_has_no_owner(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process may send netlink messages too; its port number is not 0."""
        assert self.owner_in(monkeypatch, inet_diag_msg(), sender=4711) is None

    @pytest.mark.parametrize("size", [0, 4, 20, 56, 71])
    def test_a_short_answer_has_no_owner(self, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
        assert self.owner_in(monkeypatch, inet_diag_msg()[:size]) is None

    def test_a_message_of_another_type_has_no_owner(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """NLMSG_ERROR contains the query, and can be as long as an answer."""
        assert self.owner_in(monkeypatch, inet_diag_msg(), kind=2) is None


class TestRows:
    def test_the_row_of_the_clients_end_names_its_owner(self) -> None:
        text = table(
            row("0100007F:4E21", "0100007F:D431", "01", 0),  # the server's own end
            OURS,
            row("0100007F:D432", "0100007F:4E21", "01", 1001),
        )
        assert owners_in(text, CLIENT, SERVER) == {SocketOwner(1000, 4242)}

    def test_rows_of_ipv6_and_mapped_ipv4_match(self) -> None:
        six = "00000000000000000000000001000000"
        mapped = "0000000000000000FFFF00000100007F"
        text = table(
            row(f"{six}:D431", f"{six}:4E21", "01", 7),
            row(f"{mapped}:D433", f"{mapped}:4E21", "01", 8),
        )
        assert owners_in(text, Endpoint(IPV6, 0xD431), Endpoint(IPV6, 0x4E21)) == {
            SocketOwner(7, 4242)
        }
        assert owners_in(text, Endpoint(IPV4, 0xD433), SERVER) == {SocketOwner(8, 4242)}

    @pytest.mark.parametrize("state", ["02", "03", "04", "05", "06", "07", "08", "0A", "0B"])
    def test_a_row_in_another_state_has_no_owner(self, state: str) -> None:
        """Rows in TIME_WAIT have uid 0: a client that closes at once must not pass for root."""
        text = table(row("0100007F:D431", "0100007F:4E21", state, 0))
        assert owners_in(text, CLIENT, SERVER) == set()

    def test_a_row_with_another_end_does_not_match(self) -> None:
        for remote in ("0100007F:4E22", "0200007F:4E21"):
            assert owners_in(table(row("0100007F:D431", remote, "01", 0)), CLIENT, SERVER) == set()

    INODE_AT = OURS.index("4242")

    @pytest.mark.parametrize("size", range(INODE_AT))
    def test_a_truncated_row_has_no_owner(self, size: int) -> None:
        """The values of the next row are not those of the truncated one."""
        other = row("0100007F:D432", "0100007F:4E21", "01", 0)
        assert owners_in(table(OURS[:size]), CLIENT, SERVER) == set()
        assert owners_in(table(OURS[:size], other, other), CLIENT, SERVER) == set()

    def test_a_row_may_end_with_the_inode(self) -> None:
        text = table(OURS[: self.INODE_AT + len("4242")])
        assert owners_in(text, CLIENT, SERVER) == {SocketOwner(1000, 4242)}
