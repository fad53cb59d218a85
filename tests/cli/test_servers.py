"""To which server `verdict-py` speaks: its address, and whose server it is (cli/servers.py)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.broker import RunningBroker, running_broker
from tests.support.certificates import Certificates
from tests.support.verdict import beside, verdict
from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py.cli import servers
from verdictd_py.cli import verdict as program
from verdictd_py.cli.management.client import BrokerClient, Connection
from verdictd_py.cli.servers import AcceptedUsers
from verdictd_py.config import Address, Settings
from verdictd_py.errors import ConfigError
from verdictd_py.simulator import SimulatedPlatform

OTHER_USER = 12_345
SECRET = b"a secret of 32 bytes, not theirs"
SETTINGS = bytes.fromhex("000000040000000000")  # RFC 9113, an empty SETTINGS frame


@contextmanager
def server_of(uid: int) -> Iterator[tuple[str, int]]:
    """A process of another user that answers as HTTP/2 does, and ends once it has the secret.

    Yields:
        Its address, and a descriptor from which to read what it received, after a client ended.
    """
    reading, writing = os.pipe()
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(uid)
            with socket.create_server(("127.0.0.1", port)) as listening:
                os.write(started, b"1")
                client, _ = listening.accept()
                client.sendall(SETTINGS)
                client.settimeout(30)  # a broken check would wait for its answer
                content = b""
                while SECRET not in content and (received := client.recv(65536)):
                    content += received
                    os.write(writing, received)
        finally:
            os._exit(0)
    os.close(writing)
    os.close(started)
    try:
        assert os.read(ready, 1) == b"1"
        yield f"127.0.0.1:{port}", reading
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(ready)
        os.close(reading)


def received_by(reading: int) -> bytes:
    content = b""
    while more := os.read(reading, 65536):
        content += more
    return content


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a server of another user")
class TestAServerOfAnotherUser:
    async def test_receives_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(SECRET)
        with server_of(OTHER_USER) as (address, reading):
            words = ("resource", "set", "default/some/secret", str(tmp_path / "secret"))
            ended = await verdict(address, "--timeout", "60", *words)
            received = received_by(reading)

        assert ended.complaint(3, "verdict-py") == (
            f"the server at {address} belongs to the user {OTHER_USER}, neither to root nor to "
            "you, so nothing was sent; if that is the broker's user, add --server-user "
            f"{OTHER_USER}"
        )
        assert received.startswith(b"PRI * HTTP/2.0"), "the test's server was not reached"
        assert SECRET not in received

    @pytest.mark.parametrize(
        "options", [("--server-user", str(OTHER_USER)), ("--unsafe-any-server",)]
    )
    async def test_is_accepted_on_request(self, options: tuple[str, ...], tmp_path: Path) -> None:
        (tmp_path / "secret").write_bytes(SECRET)
        with server_of(OTHER_USER) as (address, reading):
            words = ("resource", "set", "default/some/secret", str(tmp_path / "secret"))
            ended = await verdict(address, *options, "--timeout", "60", *words)
            received = received_by(reading)

        assert address in ended.complaint(3, "verdict-py")
        assert SECRET in received


@pytest.mark.parametrize("uid", [0, os.geteuid()])
def test_servers_of_root_and_of_the_caller_are_accepted(uid: int) -> None:
    assert AcceptedUsers()._problem(uid) == ""


def test_a_named_user_is_accepted_by_name_and_by_number() -> None:
    assert AcceptedUsers.of("daemon", unsafe_any=False) == AcceptedUsers(1)
    assert AcceptedUsers.of("4711", unsafe_any=False)._problem(4711) == ""
    with pytest.raises(ConfigError, match="there is no user 'nobody-at-all'"):
        AcceptedUsers.of("nobody-at-all", unsafe_any=False)


def test_a_server_of_an_unknown_user_is_refused() -> None:
    assert "--unsafe-any-server" in AcceptedUsers()._problem(None)


def test_in_a_user_namespace_nobody_is_everybody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Users without a uid here all have the uid 65534: also if the caller is that user."""
    mapping = tmp_path / "uid_map"
    monkeypatch.setattr(servers, "_MAPPING", mapping)
    monkeypatch.setattr(os, "geteuid", lambda: 65_534)

    mapping.write_text("         0       1000          1\n")
    assert "outside this container" in AcceptedUsers()._problem(65_534)
    mapping.unlink()  # /proc is not readable
    assert "outside this container" in AcceptedUsers()._problem(65_534)
    mapping.write_text("         0          0 4294967295\n")
    assert AcceptedUsers()._problem(65_534) == ""


async def test_a_connection_that_is_not_found_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "cannot be identified" in AcceptedUsers().problem(unused.getsockname()[1])


async def test_where_proc_is_missing_the_connection_is_found(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: str) -> list[str]:
        raise FileNotFoundError(path)

    address = Address.parse(broker.client_api)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    monkeypatch.setattr(os, "listdir", missing)
    assert len(list(servers._connections(address.port))) >= 1
    writer.close()
    del reader


def test_a_descriptor_that_only_names_a_socket_is_ignored(tmp_path: Path) -> None:
    """Such as that of the broker itself, in a test or in a program that contains both."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        named = os.open(tmp_path / "socket", os.O_PATH)
        try:
            opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # an iterator has one itself
            assert list(servers._connections(1)) == []
            assert len(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208  # as above
            assert listening.getsockname() == str(tmp_path / "socket")
        finally:
            os.close(named)


async def test_the_second_address_is_tried_if_the_first_does_not_answer(
    broker: RunningBroker,
) -> None:
    port = Address.parse(broker.client_api).port
    addresses = (Address("::1", port), Address("127.0.0.1", port))
    async with BrokerClient.connect(Connection(addresses, 60)) as client:
        answer = await client.call(client.keys.ListKeys, messages.ListKeysRequest())
    assert answer.keys


def test_without_an_option_it_tries_the_daemon_s_addresses() -> None:
    assert program._addresses(None) == Settings().client_api_addresses


class TestEnvironment:
    @pytest.mark.parametrize("name", program.ADDRESSES)
    async def test_names_the_address(self, broker: RunningBroker, name: str) -> None:
        ended = await beside("verdict", "status", variables={name: broker.client_api})
        assert ended.status == 0, ended

    async def test_an_option_overrides_it(self, broker: RunningBroker) -> None:
        variables = {"VERDICT_PY_CLIENT_API": "127.0.0.1:1"}
        words = ("status", "-c", broker.client_api)
        assert (await beside("verdict", *words, variables=variables)).status == 0

    async def test_an_address_that_is_none_is_named(self) -> None:
        ended = await beside("verdict", "status", variables={"VERDICT_PY_CLIENT_API": "nowhere"})
        assert ended.complaint(2, "verdict-py").startswith("VERDICT_PY_CLIENT_API 'nowhere' is not")

    async def test_names_the_files_of_tls(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        certificates = Certificates.make(tmp_path)
        leaf = certificates.ca.issue_cert(common_name="ops")
        files = {name: tmp_path / f"client-{name}.pem" for name in ("ca", "cert", "key")}
        certificates.ca.cert_pem.write_to_path(files["ca"])
        leaf.cert_chain_pems[0].write_to_path(files["cert"])
        leaf.private_key_pem.write_to_path(files["key"])
        async with running_broker(tmp_path, platform, **certificates.settings) as broker:
            variables = {f"VERDICT_PY_TLS_{name.upper()}": str(files[name]) for name in files}
            variables["VERDICTD_CLIENT_API"] = broker.client_api
            assert (await beside("verdict", "status", variables=variables)).status == 0
            del variables["VERDICT_PY_TLS_KEY"]
            ended = await beside("verdict", "status", variables=variables)
        assert ended.complaint(2, "verdict-py").startswith("TLS needs all of --tls-ca")
