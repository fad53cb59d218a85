"""`verdictd-py doctor` over broken installations: every fault is named, and none is invented."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)
from cryptography.x509 import load_pem_x509_certificate

from tests.support.command import Run, run, run_here
from tests.support.documents import follows
from tests.support.installation import NOW, PINNED, Installation, certificate, private, public
from tests.support.kubernetes import Volume
from tests.support.otherusers import python_of_every_user, with_libraries
from tests.support.ratstls import collateral
from verdictd_py import config
from verdictd_py.cli import libraries
from verdictd_py.daemon.diagnosis import host
from verdictd_py.daemon.diagnosis.addresses import ports
from verdictd_py.daemon.diagnosis.data import decisions
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.storage.directory import Directory
from verdictd_py.storage.presence import Presence, running
from verdictd_py.tees.intel.collateral.forms import collaterals_to_json

Expected = list[tuple[str, str, str]]
"""Check, result, and a part of the message, of each check that is not ok."""

Doctor = Callable[..., tuple[int, Expected]]

OTHER = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def installation() -> Iterator[Installation]:
    """An installation in order, in a directory that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Installation.make(Path(name))


@pytest.fixture
def doctor(
    installation: Installation,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> Doctor:
    """Runner of the command; it returns the exit status and what is not ok."""
    moments: dict[str, Any] = {"synchronized": True}
    monkeypatch.setattr(host, "Host", partial(host.Host, **moments))

    def examine(*more: str) -> tuple[int, Expected]:
        unit = str(installation.root / "verdictd-py.service")
        words = ("doctor", "--config", str(installation.configure()), "--unit", unit, "--json")
        ended = run_here([*words, *more], capfdbinary)
        assert ended.stderr == ""
        document = ended.json
        follows(document, "diagnosis")
        found = [row for row in document["checks"] if row["result"] != "ok"]
        results = ["ok", *(row["result"] for row in found)]
        worst = max(map(["ok", "warning", "failure"].index, results))
        assert document["result"] == ["ok", "warning", "failure"][worst]
        assert ended.status == worst
        return ended.status, [(row["check"], row["result"], row["message"]) for row in found]

    return examine


def test_an_installation_in_order(doctor: Doctor) -> None:
    assert doctor() == (0, [])


def settings(**changes: Any) -> Callable[[Installation], None]:
    """Return a function that changes settings; None removes one."""

    def change(one: Installation) -> None:
        one.settings |= changes
        for name in [name for name, value in changes.items() if value is None]:
            del one.settings[name]

    return change


def file(name: str, content: bytes, mode: int = 0o600) -> Callable[[Installation], object]:
    return lambda one: one.write(name, content, mode=mode)


def signed(name: str, **more: Any) -> Callable[[Installation], object]:
    """Return a function that replaces a certificate."""
    return lambda one: one.write(name, certificate(one.key, **more))


def mode(name: str, bits: int) -> Callable[[Installation], None]:
    return lambda one: (one.root / name).chmod(bits)


def appended(name: str, text: str) -> Callable[[Installation], object]:
    return lambda one: one.write(name, (one.root / name).read_bytes() + text.encode())


def replaced(name: str, old: str, new: str) -> Callable[[Installation], object]:
    def replace(one: Installation) -> None:
        text = (one.root / name).read_text()
        assert old in text
        one.write(name, text.replace(old, new).encode())

    return replace


unit = partial(replaced, "verdictd-py.service")


def in_database(**changes: Any) -> Callable[[Installation], None]:
    """Return a function that has the state in a database, sealed with a key that exists."""

    def change(one: Installation) -> None:
        one.write("kek", os.urandom(32))
        sealed = {"seal": f"file:{one.root / 'kek'}", "store": "postgresql://a@db.example/b"}
        one.settings |= sealed | changes

    return change


def in_vault(**options: str) -> Callable[[Installation], None]:
    """Return a function that adds a backend of resources."""

    def change(one: Installation) -> None:
        one.write("token", b"hvs.x\n")
        query = "&".join(f"{name}={value}" for name, value in options.items())
        vault = f"https://vault.example:8200/kv?{query or f'token-file={one.root}/token'}"
        one.settings["resource_backend"] = [{"prefix": "team/", "vault": vault}]

    return change


def named_in_store(*parameters: str, bits: int) -> Callable[[Installation], None]:
    """Return a function that names files in the URL of the store; the last one has this mode."""

    def change(one: Installation) -> None:
        paths = {name: one.write(name, b"x") for name in parameters}
        paths[parameters[-1]].chmod(bits)
        query = "&".join(f"{name}={path}" for name, path in paths.items())
        in_database(store=f"postgresql://a@db.example/b?{query}")(one)

    return change


def an_open_password(one: Installation) -> None:
    password = one.write("password", b"SECRET", mode=0o644)
    in_database(store_password_file=str(password))(one)


def without_tls(**changes: Any) -> Callable[[Installation], None]:
    names = ("client_api_cert", "client_api_key", "client_api_ca", "client_api_roles")
    return settings(**dict.fromkeys(names), **changes)


def same_address(one: Installation) -> None:
    one.settings["kbs_http"] = one.settings["listen"]


def admin_with_the_token_key(one: Installation) -> None:
    one.write("admin.pem", public(one.token_key))


def a_file_instead_of_the_data(one: Installation) -> None:
    one.settings["data_dir"] = str(one.write("plain", b""))


def a_link_to_nothing(one: Installation) -> None:
    shutil.rmtree(one.root / "data")
    (one.root / "data").symlink_to("/nowhere/data")


def a_socket_where_a_file_is(one: Installation) -> None:
    without_tls(client_api=f"unix:{one.write('plain', b'')}")(one)


def swapped(first: str, second: str) -> Callable[[Installation], None]:
    """Return a function that swaps two files."""

    def swap(one: Installation) -> None:
        (one.root / first).rename(one.root / "other")
        (one.root / second).rename(one.root / first)
        (one.root / "other").rename(one.root / second)

    return swap


def with_passphrase(one: Installation) -> bytes:
    encryption = BestAvailableEncryption(b"x")
    return one.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def in_der(pem: bytes) -> bytes:
    return load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


LONG = "unix:/" + "x" * 120
BROKEN: dict[str, tuple[Callable[[Installation], object], Expected]] = {
    # addresses
    "no such address": (
        settings(listen="192.0.2.1:20002"),
        [("ports", "failure", "this host has no such address; choose another --listen")],
    ),
    "no such name": (
        settings(listen="nowhere.invalid:20002"),
        [("ports", "failure", "cannot be resolved; correct --listen")],
    ),
    "one address twice": (
        same_address,
        [("ports", "failure", "--listen has the same address; choose another --kbs-http")],
    ),
    "no directory for the socket": (
        settings(client_api="unix:/nowhere/api.sock"),
        [("ports", "failure", "in /nowhere: no such file or directory; create that directory")],
    ),
    "a file at the socket's path": (
        a_socket_where_a_file_is,
        [("ports", "failure", "exists and is not a socket; choose another --client-api")],
    ),
    "a path too long for a socket": (
        settings(client_api=LONG),
        [("ports", "failure", "more than 107 bytes; choose a shorter --client-api")],
    ),
    # TLS of the client API
    "an expired certificate": (
        signed("tls.crt", start=timedelta(days=-9), days=-1),
        [("tls", "failure", "it expired on ")],
    ),
    "a certificate of tomorrow": (
        signed("tls.crt", start=timedelta(days=1)),
        [("tls", "failure", "it is not valid before ")],
    ),
    "a certificate that expires soon": (
        signed("tls.crt", days=10.5),
        [("tls", "warning", "in 10 days; replace its files and send SIGHUP")],
    ),
    "a certificate for another address": (
        signed("tls.crt", names=("10.9.8.7",)),
        [("tls", "warning", "not for 127.0.0.1, at which the broker listens, but for 10.9.8.7")],
    ),
    "a certificate without a name": (
        signed("tls.crt", names=()),
        [("tls", "failure", "it has no name (subjectAltName)")],
    ),
    "the key of another certificate": (
        file("tls.key", private(OTHER)),
        [("tls", "failure", "does not belong to the certificate")],
    ),
    "no key": (
        lambda one: (one.root / "tls.key").unlink(),
        [("tls", "failure", "No such file or directory; check --client-api-key")],
    ),
    "an expired CA": (
        signed("ca.crt", ca=True, start=timedelta(days=-9), days=-1),
        [("tls", "failure", "it expired on ")],
    ),
    "a CA that is none": (
        file("ca.crt", b"x"),
        [("tls", "failure", "correct --client-api-cert, -key and -ca")],
    ),
    # roles and administrators
    "roles that are not TOML": (
        file("roles.toml", b"[roles\n"),
        [("roles", "failure", "not valid TOML")],
    ),
    "an unknown role": (
        file("roles.toml", b'[roles]\nx = "king"\n'),
        [("roles", "failure", "give 'x' an unknown role")],
    ),
    "no role that manages": (
        file("roles.toml", b'[roles]\nx = "wrap"\n'),
        [("roles", "warning", 'may manage the broker; add "NAME" = "operator"')],
    ),
    "an administrator without a role": (
        file("admins.toml", b'[[key]]\nname = "a"\npublic_key = "admin.pem"\n'),
        [("administrators", "failure", "has no role; write roles")],
    ),
    "an administrator without a key": (
        lambda one: (one.root / "admin.pem").unlink(),
        [("administrators", "failure", "check public_key of key 'ops'")],
    ),
    "an administrator with the key of tokens": (
        admin_with_the_token_key,
        [("administrators", "failure", "is that of --kbs-token-key")],
    ),
    # HTTP listener
    "the certificate of a CA": (
        signed("kbs.crt", ca=True),
        [("tls", "failure", "it is a CA's certificate (CA:TRUE)")],
    ),
    "an expired certificate for guests": (
        signed("kbs.crt", start=timedelta(days=-9), days=-1),
        [("tls", "failure", "it expired on ")],
    ),
    "an encrypted or foreign key for guests": (
        file("kbs.key", private(OTHER)),
        [("tls", "failure", "correct --kbs-tls-cert and --kbs-tls-key")],
    ),
    "certificate and key swapped, for guests": (
        swapped("kbs.crt", "kbs.key"),
        [("tls", "failure", "the files are swapped: ")],
    ),
    "certificate and key swapped, for operators": (
        swapped("tls.crt", "tls.key"),
        [("tls", "failure", "the files are swapped: ")],
    ),
    "a key with a passphrase": (
        lambda one: one.write("kbs.key", with_passphrase(one)),
        [("tls", "failure", "is encrypted with a passphrase, which a service cannot enter")],
    ),
    "a certificate in DER": (
        lambda one: one.write("tls.crt", in_der(certificate(one.key))),
        [("tls", "failure", "tls.crt is DER, not PEM; convert it with 'openssl x509")],
    ),
    "an empty certificate": (
        file("kbs.crt", b"\n"),
        [("tls", "failure", "kbs.crt is empty; correct")],
    ),
    "a key of tokens on another curve": (
        file("token.key", private(ec.generate_private_key(ec.SECP384R1()))),
        [("tls", "failure", "not an unencrypted PEM key on P-256")],
    ),
    # audit
    "a key of the audit trail that cannot sign": (
        file("audit.key", private(OTHER)),
        [("audit", "failure", "is not an Ed25519 key")],
    ),
    "no such group": (
        settings(audit_mode="0640", audit_group="nogroupofthisname"),
        [("audit", "failure", "there is no group nogroupofthisname; correct --audit-group")],
    ),
    # rights and owners
    "roles that every user may change": (
        mode("roles.toml", 0o666),
        [("rights", "failure", "can be changed by other users (mode 0666); run 'chmod go-w")],
    ),
    "a key that other users may use the password in": (
        mode("tls.key", 0o644),
        [("rights", "warning", "other users can read this secret; run 'chmod o-r")],
    ),
    "administrators and keys that every user may change": (
        lambda one: [mode(name, 0o602)(one) for name in ("admins.toml", "audit.key")],
        [
            ("rights", "failure", "admins.toml: it can be changed by other users"),
            ("rights", "failure", "audit.key: it can be changed by other users"),
        ],
    ),
    # data directory
    "a file in the place of the data": (
        a_file_instead_of_the_data,
        [("data", "failure", "is not a directory; choose another --data-dir")],
    ),
    "a link to data that is not mounted": (
        a_link_to_nothing,
        [("data", "failure", "it is a link to /nowhere/data, which does not exist")],
    ),
    "data that every user may change": (
        mode("data", 0o777),
        [("data", "failure", "can be changed by other users (mode 0777)")],
    ),
    "policies that every user may change": (
        mode("data/opa/tdxPolicy.rego", 0o666),
        [("data", "failure", "tdxPolicy.rego: it can be changed by other users")],
    ),
    "a key of a wrong size": (
        file("data/keys/mine", b"short"),
        [("data", "warning", "key mine has 5 bytes and is not served")],
    ),
    "a key of guests that other users may use the password in": (
        file("data/keys/mine", bytes(32), 0o644),
        [("data", "warning", "keys/mine has mode 0644: other users may read it")],
    ),
    "no place for the data": (
        lambda one: settings(data_dir=f"{one.write('plain', b'')}/data")(one),
        [("data", "failure", "this user cannot create it in")],
    ),
    # policies
    "a policy that does not compile": (
        file("data/opa/tdxPolicy.rego", b"package policy\nallow {"),
        [("policies", "failure", "guests are refused: ")],
    ),
    "a release policy that does not compile": (
        file("data/opa/releasePolicy.rego", b"package policy\nallow {"),
        [("policies", "failure", "guests are refused: ")],
    ),
    "reference data that is not JSON": (
        file("data/opa/tdxData", b"{"),
        [("policies", "failure", "guests are refused: ")],
    ),
    "no pinned measurement": (
        replaced("data/opa/tdxData", f'"{PINNED}"', ""),
        [("policies", "warning", "UNPINNED: guests are accepted whatever")],
    ),
    "a misspelled document": (
        file("data/opa/tdxpolicy.rego", b"package policy"),
        [("policies", "warning", "nothing reads tdxpolicy.rego; did you mean tdxPolicy.rego?")],
    ),
    # collateral
    "no collateral": (
        settings(collateral="/nowhere/collateral.json"),
        [("collateral", "failure", "/nowhere/collateral.json cannot be read")],
    ),
    "collateral that is none": (
        lambda one: settings(collateral=str(one.write("collateral.json", b"[]x")))(one),
        [("collateral", "failure", "cannot be used")],
    ),
    "collateral of another shape": (
        lambda one: settings(
            collateral=str(
                one.write("collateral.json", collaterals_to_json([collateral()]).encode())
            )
        )(one),
        [("collateral", "failure", "fetch it again")],
    ),
    "a subscription key of two lines": (
        lambda one: settings(
            collateral_url="https://127.0.0.1:9",
            collateral_api_key_file=str(one.write("api.key", b"a\nb")),
        )(one),
        [("collateral", "failure", "is not one line of at most 1024 letters and digits")],
    ),
    "CAs of the PCCS that are none": (
        lambda one: settings(
            collateral_url="https://127.0.0.1:9", collateral_ca=str(one.write("pccs.crt", b"x"))
        )(one),
        [("collateral", "failure", "has no certificates in PEM; check --collateral-ca")],
    ),
    # engines, which are not contacted
    "a store without a seal": (
        settings(store="postgresql://a@db.example/b"),
        [("settings", "failure", "--store needs --seal")],
    ),
    "a password without a store": (
        settings(store_password_file="/nowhere/password"),
        [("settings", "failure", "--store-password-file has no effect")],
    ),
    "a store without a verified server": (
        in_database(store="postgresql://a@db.example/b?sslmode=require"),
        [("settings", "failure", "sslmode=require does not verify the server")],
    ),
    "a store whose password is missing": (
        in_database(store_password_file="/nowhere/password"),
        [("store", "failure", "/nowhere/password: No such file or directory; correct the path")],
    ),
    "a store whose password every user can read": (
        an_open_password,
        [("rights", "failure", "other users may use the password in")],
    ),
    "a store whose key every user can read": (
        named_in_store("sslcert", "sslkey", bits=0o644),
        [("rights", "failure", "other users may use the key in")],
    ),
    "a store whose CA every user can change": (
        named_in_store("sslrootcert", bits=0o666),
        [("rights", "failure", "can be changed by other users (mode 0666); run 'chmod go-w")],
    ),
    "a backend whose token every user can read": (
        lambda one: [in_vault()(one), mode("token", 0o644)(one)],
        [("rights", "failure", "other users may use the token for Vault in")],
    ),
    "a store whose CA is missing": (
        in_database(store="postgresql://a@db.example/b?sslrootcert=/nowhere/ca"),
        [("store", "failure", "/nowhere/ca: no such file or directory; correct sslrootcert= of")],
    ),
    "sessions in a database whose URL has a password": (
        settings(kbs_sessions="postgresql://a:SECRET@db.example/b"),
        [("settings", "failure", "kbs_sessions: it has a password")],
    ),
    "sessions in a database whose CA is missing": (
        settings(kbs_sessions="postgresql://a@db.example/b?sslrootcert=/nowhere/ca"),
        [("sessions", "failure", "correct sslrootcert= of --kbs-sessions")],
    ),
    "sessions in Valkey without its CA": (
        settings(kbs_sessions="valkeys://cache.example?ca=/nowhere/ca"),
        [("sessions", "failure", "No such file or directory; check ca, cert and key")],
    ),
    "sessions in Valkey without its password": (
        settings(kbs_sessions="valkeys://cache.example?password_file=/nowhere/password"),
        [("sessions", "failure", "/nowhere/password: No such file or directory; correct")],
    ),
    "a backend without its token": (
        in_vault(**{"token-file": "/nowhere/token"}),
        [("backends", "failure", "/nowhere/token: No such file or directory; correct the path")],
    ),
    "a backend without its CA": (
        in_vault(**{"kubernetes-role": "a", "ca": "/nowhere/ca"}),
        [("backends", "failure", "certificates of /nowhere/ca: No such file")],
    ),
    "a seal whose key is missing": (
        settings(seal="file:/nowhere/kek"),
        [("seal", "failure", "cannot read the key file /nowhere")],
    ),
    # settings
    "two settings that are wrong": (
        settings(idle_timeout=0, lissten="x"),
        [
            ("settings", "failure", "greater than 0; write seconds, such as idle_timeout = 300"),
            ("settings", "failure", "did you mean 'listen'?"),
        ],
    ),
    "settings that contradict each other": (
        settings(kbs_tls_key=None, audit_group="root", console_read_only=True),
        [
            ("settings", "failure", "--console-read-only has no effect"),
            ("settings", "failure", "go together; give both, or neither"),
            ("settings", "failure", "--audit-group has no effect"),
        ],
    ),
    "a verifier that needs an unsafe option": (
        settings(verifier=["nullverifier"]),
        [("settings", "failure", "add --insecure-nullverifier")],
    ),
    # the unit
    "MemoryDenyWriteExecute": (
        appended("verdictd-py.service", "MemoryDenyWriteExecute=yes\n"),
        [("sandbox", "failure", "MemoryDenyWriteExecute=yes prevents the start")],
    ),
    "MemoryDenyWriteExecute in a drop-in": (
        file("verdictd-py.service.d/10.conf", b"[Service]\nMemoryDenyWriteExecute=true\n"),
        [("sandbox", "failure", "MemoryDenyWriteExecute=yes prevents the start")],
    ),
    "ProcSubset without netlink": (
        lambda one: (unit(" AF_NETLINK", "")(one), without_tls()(one)),
        [("sandbox", "failure", "ProcSubset=pid without AF_NETLINK")],
    ),
    "no unix sockets": (
        unit("AF_UNIX ", ""),
        [("sandbox", "failure", "add AF_UNIX")],
    ),
    "a unit without notifications": (
        unit("Type=notify", "Type=simple"),
        [("sandbox", "warning", "set Type=notify")],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_installation(name: str, installation: Installation, doctor: Doctor) -> None:
    breaking, expected = BROKEN[name]
    breaking(installation)

    _, found = doctor()

    assert [(check, result) for check, result, _ in found] == [
        (check, result) for check, result, _ in expected
    ], found
    for (_, _, message), (_, _, part) in zip(found, expected, strict=True):
        assert part in message
        assert "\n" not in message


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        (
            lambda one: (in_database()(one), file("data/opa/tdxPolicy.rego", b"x")(one)),
            {"store", "policies"},
        ),
        (settings(kbs_sessions="postgresql://a@db.example/b"), {"sessions"}),
        (settings(kbs_sessions="valkeys://cache.example"), {"sessions"}),
        (in_vault(), {"backends"}),
    ],
)
def test_engines_in_order_are_not_contacted(
    change: Callable[[Installation], None],
    checks: set[str],
    installation: Installation,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    change(installation)
    words = ("doctor", "--config", str(installation.configure()), "--json")
    rows = run_here(words, capfdbinary).json["checks"]
    assert [row for row in rows if row["check"] in checks and row["result"] != "ok"] == []
    contacted = {row["check"]: row["message"] for row in rows if row["check"] in checks}
    assert contacted.keys() == checks
    assert all("contacted" in message for message in contacted.values())


def test_all_faults_at_once(installation: Installation, doctor: Doctor) -> None:
    signed("tls.crt", days=10.5)(installation)
    file("token.key", b"x")(installation)
    file("data/opa/tdxPolicy.rego", b"x")(installation)
    settings(listen="192.0.2.1:20002", kbs_admins=None)(installation)
    status, found = doctor()
    assert status == 2
    assert [check for check, _, _ in found] == ["tls", "tls", "ports", "policies"]


@pytest.mark.parametrize(
    ("days", "expected"),
    [(0, []), (25, [("warning", "it expires on ")]), (40, [("failure", "fetch it again")])],
)
async def test_collateral_expires(
    days: int, expected: list[tuple[str, str]], installation: Installation
) -> None:
    platform = SimulatedPlatform.create(now=NOW)
    content = collateral_json(platform.collateral(now=NOW)).encode()
    installation.settings["collateral"] = str(installation.write("collateral.json", content))
    root = installation.write("root.pem", platform.root_ca_pem.encode())
    loaded = config.load({}, file=installation.configure())
    for unsafe, findings in (
        (config.Unsafe(unsafe_tdx_root_ca=root), expected),
        (config.Unsafe(), [("failure", "fetch it again")]),  # Intel has not signed it
    ):
        found = await decisions(loaded, unsafe, NOW + timedelta(days=days))
        wrong = [one for one in found if one.check == "collateral" and one.result != "ok"]
        assert [one.result for one in wrong] == [result for result, _ in findings], found
        for one, (_, part) in zip(wrong, findings, strict=True):
            assert part in one.message


def test_a_port_in_use(installation: Installation, doctor: Doctor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings(listen=f"127.0.0.1:{other.getsockname()[1]}")(installation)
        _, found = doctor()
    ((check, result, message),) = found
    assert (check, result) == ("ports", "failure")
    assert "the address is in use" in message


async def test_the_ports_of_a_broker_that_runs_here(
    installation: Installation, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The new version's `doctor` runs before an upgrade restarts the old one."""

    presence = Presence(Directory.open(installation.root / "data"), lambda: datetime.now(UTC))

    class Nothing:
        def record(self, event: object) -> None:
            del event

        async def commit(self, *events: object) -> None:
            del events

    with socket.create_server(("127.0.0.1", 0)) as own:
        settings(listen=f"127.0.0.1:{own.getsockname()[1]}")(installation)
        loaded = config.load({}, file=installation.configure())
        assert not running(loaded.data_dir)
        await presence.announce(Nothing())
        (other,) = running(loaded.data_dir)
        assert other.pid == os.getpid()
        assert {one.result for one in ports(loaded, running=True)} == {"ok"}
        assert "failure" in {one.result for one in ports(loaded, running=False)}
    await presence.close()
    assert not running(loaded.data_dir)


def test_nothing_is_changed(installation: Installation, doctor: Doctor) -> None:
    installation.configure()

    def content() -> dict[str, tuple[int, bytes]]:
        return {
            str(path): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
            for path in installation.root.rglob("*")
        }

    file("data/keys/.tmp-left", b"x")(installation)
    before = content()
    doctor()
    assert content() == before
    settings(data_dir=str(installation.root / "absent"))(installation)
    assert doctor() == (0, [])
    assert not (installation.root / "absent").exists()


@pytest.mark.parametrize(
    ("moment", "synchronized", "expected"),
    [
        (datetime(1980, 1, 1, tzinfo=UTC), True, ("failure", "before this release; set the clock")),
        (datetime(2026, 12, 1, tzinfo=UTC), False, ("warning", "start chrony")),
        (datetime(2026, 12, 1, tzinfo=UTC), None, ("ok", "it shows 2026-12-01")),
    ],
)
def test_the_clock(moment: datetime, synchronized: bool | None, expected: tuple[str, str]) -> None:
    (found,) = host.clock(host.Host(now=moment, synchronized=synchronized, units=()))
    assert (found.check, found.result) == ("clock", expected[0])
    assert expected[1] in found.message


class TestLibraries:
    def test_all_are_there(self) -> None:
        assert list(libraries.problems()) == []

    @pytest.mark.parametrize(
        ("needed", "problem"),
        [
            ("no-such-library>=1", "it is not installed"),
            ("cryptography>=9000", ">=9000 is needed"),
            ("cryptography<1", "<1 is needed"),
        ],
    )
    def test_one_is_not(self, needed: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(libraries, "requires", lambda name: [needed, 'x; extra == "y"'])
        ((name, text),) = libraries.problems()
        assert name in needed
        assert problem in text
        assert text.endswith("install verdictd-py again with its libraries")

    def test_a_library_that_cannot_be_loaded_is_no_traceback(self, tmp_path: Path) -> None:
        """As on a system without a shared library that the extension needs."""
        package = tmp_path / "wasmtime"
        package.mkdir()
        (package / "__init__.py").write_text("raise OSError('libm.so.6: cannot open')")
        path = f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"
        ended = run(Run(["doctor", "--json"], environment={"PYTHONPATH": path}))
        assert (ended.status, ended.stderr) == (2, "")
        (broken,) = [row for row in ended.json["checks"] if row["result"] == "failure"]
        assert (broken["check"], broken["subject"]) == ("libraries", "wasmtime")
        assert broken["message"].startswith("it cannot be loaded: libm.so.6: cannot open; install")


def test_too_few_descriptors(installation: Installation) -> None:
    words = ["doctor", "--config", str(installation.configure()), "--json"]
    ended = run(Run(words, wrapper=("prlimit", "--nofile=300:300")))
    (found,) = [row for row in ended.json["checks"] if row["check"] == "descriptors"]
    assert (ended.status, found["result"]) == (2, "failure")
    assert "this process may open 300 files only" in found["message"]


def test_for_people(installation: Installation) -> None:
    mode("roles.toml", 0o666)(installation)
    ended = run(Run(["doctor", "--config", str(installation.configure())]))
    assert ended.status == 2
    (line,) = [line for line in ended.stdout.decode().splitlines() if "failure" in line]
    assert line.split()[:2] == ["failure", "rights"]
    assert "chmod go-w" in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_checks_as_the_user_of_the_service(installation: Installation) -> None:
    """What root may read and change, the service need not."""
    for path in (installation.root, *installation.root.rglob("*")):
        os.chown(path, 65_534, 65_534)
    words = ["doctor", "--config", str(installation.configure()), "--json"]
    (installation.root / "config.toml").chmod(0o644)
    (data,) = [row for row in run(Run(words)).json["checks"] if row["check"] == "data"]
    assert data["message"].endswith("to the user nobody, and root checks it; add --user nobody")
    command = (python_of_every_user(), "-m", "verdictd_py.cli.main", *words, "--user", "nobody")

    def examine() -> list[dict[str, Any]]:
        ended = subprocess.run(command, stdout=subprocess.PIPE, check=False, env=with_libraries())
        return list(json.loads(ended.stdout)["checks"])

    as_nobody = examine()
    assert [row for row in as_nobody if row["result"] == "failure"] == []
    os.chown(installation.root / "tls.key", 0, 0)
    broken = examine()
    (failure,) = [row for row in broken if row["result"] == "failure"]
    assert "tls.key: Permission denied; check --client-api-key" in failure["message"]


def test_a_program_that_the_user_cannot_read_is_no_traceback(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable() -> None:
        raise ModuleNotFoundError("No module named 'email.parser'")

    monkeypatch.setattr(libraries, "problems", unreadable)
    status, ((check, result, message),) = doctor()
    assert (status, check, result) == (2, "libraries", "failure")
    assert message.endswith("install them for all users")


def test_an_unknown_user(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ended = run_here(["doctor", "--user", "no-such-user"], capfdbinary)
    assert "correct --user" in ended.complaint(2, "verdictd-py doctor")


def test_every_file_can_come_from_a_mounted_secret(
    installation: Installation, doctor: Doctor
) -> None:
    """The kubelet's volumes consist of links, and its files have mode 0644 by default."""
    names = (
        *("tls.crt", "tls.key", "ca.crt", "roles.toml", "kbs.crt", "kbs.key", "token.key"),
        *("admins.toml", "admin.pem", "audit.key"),
    )
    volume = Volume(installation.root / "secret")
    volume.write({name: (installation.root / name).read_bytes() for name in names}, mode=0o644)
    for name in names:
        (installation.root / name).unlink()
    for setting, value in installation.settings.items():
        if str(value).startswith(str(installation.root)) and Path(value).name in names:
            installation.settings[setting] = str(volume.path / Path(value).name)
    assert doctor() == (0, [])


def test_every_file_can_be_a_credential(
    installation: Installation, doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(installation.root))
    for setting, value in installation.settings.items():
        if str(value).startswith(str(installation.root)) and setting != "data_dir":
            installation.settings[setting] = f"credential:{Path(value).name}"
    assert doctor() == (0, [])


def test_a_key_is_named_once(installation: Installation, doctor: Doctor) -> None:
    """A key of the wrong type is no other fault as well."""
    file("audit.key", private(ed25519.Ed25519PrivateKey.generate()))(installation)
    assert doctor() == (0, [])
