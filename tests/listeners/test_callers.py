"""Identification of callers, as in the last section of the client API's design page."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from verdictd_py.domain.callers import ROLES, Caller, Right
from verdictd_py.errors import ConfigError, NotAuthorized
from verdictd_py.listeners import callers
from verdictd_py.listeners.callers import CallerRules, Peer, read_roles
from verdictd_py.listeners.loopback import Endpoint

ABROAD = Peer("192.0.2.1", 5)
LOOPBACK = Peer("127.0.0.1", 5)


class Context:
    """The two used methods of a gRPC context."""

    def __init__(self, auth: Mapping[str, Iterable[bytes]] | None = None) -> None:
        self._auth = auth or {}

    def peer(self) -> str:
        return "unix-abstract:1"

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        return self._auth


def caller_at(peer: Peer | None, **rules: Any) -> Caller:
    """Return the caller of a call without TLS on a connection of `peer`."""
    return CallerRules(peer_of=lambda name: peer, **rules).caller(Context())


class TestRealConnection:
    """Connections on the running kernel."""

    def test_a_connection_of_the_same_user_has_all_rights(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()),
            server.accept()[0] as accepted,
        ):
            caller = caller_at(Peer.of(accepted))
        assert caller == Caller(f"uid {os.geteuid()}", ROLES["admin"])

    def test_a_closed_connection_may_only_wrap(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname()).close()
            with server.accept()[0] as accepted:
                caller = caller_at(Peer.of(accepted))
        assert caller.rights == ROLES["wrap"]

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
    def test_another_user_may_only_wrap(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            "".encode("idna")  # loads the codec: another user may not read our Python
            os.seteuid(65534)
            try:
                client = socket.create_connection(server.getsockname())
            finally:
                os.seteuid(0)
            with client, server.accept()[0] as accepted:
                caller = caller_at(Peer.of(accepted))
        assert caller == Caller("uid 65534", ROLES["wrap"])


class TestRules:
    def test_a_unix_socket_has_all_rights(self) -> None:
        assert caller_at(Peer()).rights == frozenset(Right)

    @pytest.mark.parametrize("peer", [ABROAD, Peer("2001:db8::1", 5), None])
    def test_a_remote_or_unknown_caller_has_no_rights(self, peer: Peer | None) -> None:
        assert caller_at(peer).rights == frozenset()

    def test_the_insecure_options_give_all_rights(self) -> None:
        assert caller_at(LOOPBACK, insecure_loopback=True).rights == frozenset(Right)
        assert caller_at(ABROAD, insecure_loopback=True).rights == frozenset()
        assert caller_at(ABROAD, insecure_open=True).rights == frozenset(Right)

    @pytest.mark.parametrize("option", ["insecure_loopback", "insecure_open"])
    def test_no_option_gives_rights_to_a_connection_that_has_ended(self, option: str) -> None:
        assert caller_at(None, **{option: True}).rights == frozenset()

    @pytest.mark.parametrize(
        ("names", "rights"),
        [
            ([b"farm"], ROLES["wrap"]),
            ([b"ops"], ROLES["operator"]),
            ([b"boss"], ROLES["admin"]),
            ([b"stranger"], frozenset()),
            ([], frozenset()),
            ([b"farm", b"ops"], ROLES["operator"]),
            ([b"\xff"], frozenset()),
        ],
    )
    def test_certificates_have_the_role_of_their_name(
        self, names: list[bytes], rights: frozenset[Right]
    ) -> None:
        roles = {"farm": "wrap", "ops": "operator", "boss": "admin"}
        rules = CallerRules(certificate_roles=lambda: roles)
        for attribute in ("x509_common_name", "x509_subject_alternative_name"):
            found = rules.caller(Context({attribute: names}))
            assert found.rights == rights

    def test_with_tls_loopback_alone_gives_no_rights(self) -> None:
        own = Peer("127.0.0.1", 5, os.geteuid())
        options = {"insecure_loopback": True, "insecure_open": True}
        assert caller_at(own, certificate_roles=dict, **options).rights == frozenset()

    def test_a_missing_right_is_refused_with_a_remedy(self) -> None:
        with pytest.raises(NotAuthorized, match="no right to unwrap; call as"):
            Caller("uid 7", ROLES["operator"]).require(Right.UNWRAP)
        Caller("uid 7", ROLES["admin"]).require(Right.UNWRAP)


class TestNames:
    """Names of callers, as the audit trail has them."""

    @pytest.mark.parametrize(
        ("peer", "rules", "name"),
        [
            (Peer(), {}, "unix socket"),
            (None, {}, "closed connection"),
            (ABROAD, {}, "unknown at ipv4:192.0.2.1:5"),
            (Peer("2001:db8::1", 5), {}, "unknown at ipv6:[2001:db8::1]:5"),
            (ABROAD, {"insecure_open": True}, "unauthenticated at ipv4:192.0.2.1:5"),
            (LOOPBACK, {"insecure_loopback": True}, "unauthenticated on loopback"),
        ],
    )
    def test_a_caller_without_an_identity_has_the_name_of_its_way(
        self, peer: Peer | None, rules: dict[str, bool], name: str
    ) -> None:
        assert caller_at(peer, **rules).name == name

    def test_a_certificate_has_its_listed_names_or_all_of_them(self) -> None:
        rules = CallerRules(certificate_roles=lambda: {"farm": "wrap", "ops": "operator"})
        auth = {
            "x509_common_name": [b"ops", b"other\xff"],
            "x509_subject_alternative_name": [b"farm"],
            "x509_pem_cert": [b"boss"],
        }
        caller = rules.caller(Context(auth))
        assert caller == Caller("certificate farm, ops", ROLES["wrap"] | ROLES["operator"])
        caller = rules.caller(Context({"x509_common_name": [b"b\xff", b"a"]}))
        assert caller == Caller("certificate a, b\ufffd", frozenset())


class TestLoopback:
    """Which connection the kernel is queried about, and what its owner may do."""

    @pytest.fixture
    def ends(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
        """Both ends of each query; each answer is that the owner is not known."""
        queries: list[tuple[str, str]] = []

        def unknown(client: Endpoint, server: Endpoint) -> None:
            ends = [f"{end.address}:{end.port}" for end in (client, server)]
            queries.append((ends[0], ends[1]))

        monkeypatch.setattr(callers, "owner", unknown)
        return queries

    @pytest.mark.parametrize(
        ("family", "client", "server"),
        [
            (socket.AF_INET, "127.0.0.1:5", "127.0.0.1:7"),
            (socket.AF_INET, "127.0.0.2:5", "127.0.0.1:7"),
            (socket.AF_INET6, "::1:5", "::1:7"),
        ],
    )
    def test_the_kernel_is_queried_about_this_connection(
        self, ends: list[tuple[str, str]], family: socket.AddressFamily, client: str, server: str
    ) -> None:
        caller = caller_at(Peer.of(accepted(family, client, server)))
        assert ends == [(client, server)]
        assert caller == Caller("unknown user on loopback", ROLES["wrap"])

    def test_an_ipv4_address_in_ipv6_form_is_ipv4(self, ends: list[tuple[str, str]]) -> None:
        six = accepted(socket.AF_INET6, "::ffff:127.0.0.1:5", "::ffff:127.0.0.1:7")
        assert Peer.of(six) == LOOPBACK
        assert ends == [("127.0.0.1:5", "127.0.0.1:7")]

    def test_no_kernel_is_queried_about_another_host(self, ends: list[tuple[str, str]]) -> None:
        assert Peer.of(accepted(socket.AF_INET, "192.0.2.1:5", "192.0.2.9:7")) == ABROAD
        assert ends == []

    @pytest.mark.parametrize(
        ("uid", "role"), [(0, "admin"), (1000, "admin"), (1, "wrap"), (1001, "wrap")]
    )
    def test_root_and_the_brokers_own_user_have_all_rights(
        self, monkeypatch: pytest.MonkeyPatch, uid: int, role: str
    ) -> None:
        monkeypatch.setattr(callers, "owner", lambda client, server: uid)
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        peer = Peer.of(accepted(socket.AF_INET, "127.0.0.1:5", "127.0.0.1:7"))
        assert caller_at(peer) == Caller(f"uid {uid}", ROLES[role])


def accepted(family: socket.AddressFamily, client: str, server: str) -> Any:
    """Return what `Peer.of` uses of a socket with these ends."""
    parts = [end.rpartition(":") for end in (client, server)]
    far, near = ((host, int(port)) for host, _, port in parts)
    return SimpleNamespace(family=family, getpeername=lambda: far, getsockname=lambda: near)


class TestRolesFile:
    def test_roles_are_read(self, tmp_path: Path) -> None:
        file = tmp_path / "roles.toml"
        file.write_text('[roles]\n"build-farm" = "wrap"\nops = "operator"\n')
        assert read_roles(file) == {"build-farm": "wrap", "ops": "operator"}

    @pytest.mark.parametrize(
        ("text", "cause"),
        [
            ("[roles]\nx = 'god'\n", f"unknown role.*: use one of {', '.join(ROLES)}$"),
            ("[roles]\nx = 1\n", "unknown role"),
            ("[roles]\nx = ['wrap']\n", "unknown role"),
            ("x = 'wrap'\n", "one table"),
            ("", "one table"),
            ("[roles]\n[more]\n", "one table"),
            ("[roles", "not valid TOML"),
            ("\xff", "not valid TOML"),
        ],
    )
    def test_a_bad_file_is_one_clear_line(self, tmp_path: Path, text: str, cause: str) -> None:
        file = tmp_path / "roles.toml"
        file.write_bytes(text.encode("latin-1"))
        with pytest.raises(ConfigError, match=cause) as caught:
            read_roles(file)
        assert "\n" not in str(caught.value)
        assert str(file) in str(caught.value)

    def test_a_missing_file_names_the_option(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="--client-api-roles"):
            read_roles(tmp_path / "none.toml")
