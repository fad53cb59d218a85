"""Names and addresses of this host, without a name service."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from pathlib import Path

import pytest

from verdictd_py.listeners.kbs.hostnames import host_addresses, host_names

OWN = (ipaddress.ip_address("192.0.2.7"), ipaddress.ip_address("2001:db8::7"))


def test_the_names_of_own_addresses_are_found(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(
        "192.0.2.7 broker.example broker  # comment other.example\n"
        "2001:db8:0::7 six.example\n"
        "192.0.2.8 another.example\n"
        "\n# 192.0.2.7 no.example\nnonsense\n192.0.2.7 bad_name -x \u00fc.example\n"
    )
    found = set(host_names(OWN, hosts)) - {socket.gethostname()}
    assert found == {"broker.example", "broker", "six.example"}


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    assert set(host_names(OWN, tmp_path / "none")) <= {socket.gethostname()}


def test_loopback_is_among_the_addresses_and_link_local_is_not() -> None:
    found = host_addresses()
    assert ipaddress.ip_address("127.0.0.1") in found
    assert not any(address.is_link_local for address in found)


def test_a_sandbox_without_internet_sockets_hides_the_addresses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The certificate of an air-gapped broker, whose sockets systemd holds, lacks them."""

    def refused(*_: object) -> socket.socket:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))

    monkeypatch.setattr(socket, "socket", refused)
    assert all(address.version == 6 for address in host_addresses())
