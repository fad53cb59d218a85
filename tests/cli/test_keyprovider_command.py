"""ocicrypt's key provider as a command (wire-keyprovider.md, "stdin/stdout")."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.broker import KEY, KID
from tests.support.command import Ended, Run, run, run_all
from tests.support.keyprovider_client import (
    LAYER,
    b64,
    opened,
    optsdata_in,
    packet_in,
    unwrap_input,
    wrap_input,
)

PROGRAM = "verdictd-py keyprovider"
URI = "keyid=kbs:///default/key/1"
KEK = bytes(range(32))


def command(data: Path, asked: dict[str, Any] | bytes, *options: str) -> Run:
    stdin = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    return Run(("keyprovider", "--data-dir", str(data), *options), stdin)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("data")
    (found / "keys").mkdir()
    (found / "keys" / KID).write_bytes(KEY)
    (found / "keys/short").write_bytes(KEY[:-1])
    (found / "kek").write_bytes(KEK)
    (found / "kek31").write_bytes(KEK[:-1])
    (found / "kek33").write_bytes(KEK + b"\n")
    return found


@pytest.fixture(scope="module")
def ended(data: Path) -> dict[str, Ended]:
    """Run the commands of all tests at once."""
    return run_all(
        {
            "kid": command(data, wrap_input(KID)),
            "new": command(data, wrap_input("Enabled")),
            "uri": command(data, wrap_input(URI)),
            "keypath": command(data, wrap_input(f"{URI}::keypath={data}/kek")),
            "ctr": command(data, wrap_input(f"{URI}::keypath={data}/kek::algorithm=A256CTR")),
            "keypath 31": command(data, wrap_input(f"{URI}::keypath={data}/kek31")),
            "keypath 33": command(data, wrap_input(f"{URI}::keypath={data}/kek33")),
            "keypath none": command(data, wrap_input(f"{URI}::keypath={data}/none")),
            "missing": command(data, wrap_input("no-such-key")),
            "short": command(data, wrap_input("short")),
            "resource": command(data, wrap_input("keyid=kbs:///default/credential/test")),
            "provider": command(data, wrap_input(KID), "--keyprovider-name", "eaa"),
            "garbage": command(data, b"{not JSON\n"),
            "nothing": command(data, b""),
            "option": command(data, b"", "--nosuch"),
            "no directory": command(data / "kek", wrap_input(KID)),
        }
    )


class TestRecords:
    """Each answer has its record, which comes first."""

    def test_a_created_key_is_in_the_audit_trail(self, tmp_path: Path) -> None:
        answer = run(command(tmp_path, wrap_input("Enabled")))
        kid = packet_in(answer.json)["kid"]
        (file,) = (tmp_path / "audit").glob("*.jsonl")
        began, head, *records, last = map(json.loads, file.read_text().splitlines())
        assert [record["event"] for record in (began, head, last)] == [
            "audit.began",
            "audit.head",
            "audit.head",
        ]
        assert [record["event"] for record in records] == ["key.created", "image-key.wrapped"]
        caller = f"uid {os.getuid()}, verdictd-py keyprovider"
        assert [record["fields"]["caller"] for record in records] == [caller] * 2
        assert {record["fields"]["kid"] for record in records} == {kid}
        assert file.stat().st_mode & 0o777 == 0o600
        verified = run(Run(("audit", "verify", str(file))))
        assert verified.status == 0, verified.stderr

    def test_its_records_are_signed_with_the_key_of_the_daemon(self, tmp_path: Path) -> None:
        key, public = tmp_path / "audit.key", tmp_path / "audit.pub"
        private = Ed25519PrivateKey.generate()
        key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        public.write_bytes(
            private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        run(command(tmp_path, wrap_input("Enabled"), "--audit-key", str(key)))
        trail = str(tmp_path / "audit")
        verified = run(Run(("audit", "verify", trail, "--key", str(public), "--stopped")))
        assert verified.status == 0, verified.stderr
        run(command(tmp_path, wrap_input("Enabled")))
        verified = run(Run(("audit", "verify", trail, "--key", str(public))))
        assert verified.status == 1
        assert "no record is signed" in verified.stderr

    def test_without_the_trail_no_key_is_created(self, tmp_path: Path) -> None:
        (tmp_path / "audit").write_text("not a directory")
        refused = run(command(tmp_path, wrap_input("Enabled")))
        assert refused.status != 0
        assert refused.stdout == b""
        assert not list((tmp_path / "keys").iterdir())

    def test_a_refused_request_leaves_no_file(self, tmp_path: Path) -> None:
        assert run(command(tmp_path, wrap_input("no-such-key"))).status == 1
        assert not list((tmp_path / "audit").glob("*.jsonl"))

    def test_files_are_shared_as_those_of_the_daemon(self, tmp_path: Path) -> None:
        (tmp_path / "audit").mkdir()
        (tmp_path / "audit").chmod(0o2750)
        run(command(tmp_path, wrap_input("Enabled")))
        (file,) = (tmp_path / "audit").glob("*.jsonl")
        assert file.stat().st_mode & 0o777 == 0o640


class TestAnswers:
    def test_an_existing_key_wraps(self, ended: dict[str, Ended]) -> None:
        assert (ended["kid"].status, ended["kid"].stderr) == (0, "")
        packet = packet_in(ended["kid"].json)
        assert (packet["kid"], packet["algorithm"]) == (KID, "AES")
        assert opened(packet, KEY) == LAYER

    def test_a_request_without_a_key_name_creates_a_key(
        self, ended: dict[str, Ended], data: Path
    ) -> None:
        packet = packet_in(ended["new"].json)
        assert UUID(packet["kid"]).version == 4
        file = data / "keys" / packet["kid"]
        assert file.stat().st_mode & 0o777 == 0o600
        assert opened(packet, file.read_bytes()) == LAYER

    def test_the_missing_key_of_a_uri_is_created(self, ended: dict[str, Ended], data: Path) -> None:
        packet = packet_in(ended["uri"].json)
        assert packet["kid"] == "kbs:///default/key/1"
        assert opened(packet, (data / "keys/default/key/1").read_bytes()) == LAYER

    def test_a_key_file_of_this_host_is_used_and_not_stored(
        self, ended: dict[str, Ended], data: Path
    ) -> None:
        assert ended["keypath"].stderr == ""
        packet = packet_in(ended["keypath"].json)
        assert (packet["kid"], packet["wrap_type"]) == ("kbs:///default/key/1", "A256GCM")
        assert opened(packet, KEK) == LAYER
        assert (data / "keys/default/key/1").read_bytes() != KEK

    def test_unwrapping_returns_the_wrapped_key(
        self, ended: dict[str, Ended], data: Path, tmp_path: Path
    ) -> None:
        kek = tmp_path / "keys/default/key/1"
        kek.parent.mkdir(parents=True)
        kek.write_bytes(KEK)
        ctr = unwrap_input(packet_in(ended["ctr"].json))
        packets = {name: packet_in(ended[name].json) for name in ("kid", "new", "uri")}
        runs = {name: command(data, unwrap_input(packet)) for name, packet in packets.items()}
        runs["ctr"] = command(tmp_path, ctr, "--allow-a256ctr")
        for name, done in run_all({**runs, "ctr off": command(tmp_path, ctr)}).items():
            if name == "ctr off":
                assert "A256CTR authenticates nothing" in done.complaint(1, PROGRAM)
            else:
                assert (done.status, done.stderr) == (0, "")
                assert optsdata_in(done.json) == LAYER

    def test_only_keys_are_created_in_the_data_directory(
        self, ended: dict[str, Ended], data: Path
    ) -> None:
        assert ended
        assert {path.name for path in data.iterdir()} - {"kek", "kek31", "kek33"} == {
            ".lock",
            "audit",
            "keys",
            "resources",
        }
        assert list((data / "resources").iterdir()) == []


@pytest.mark.parametrize(
    ("case", "status", "cause"),
    [
        ("keypath 31", 1, "/kek31 holds 31 bytes: a key has 32"),
        ("keypath 33", 1, "/kek33 holds more than 32 bytes: a key has 32"),
        ("keypath none", 1, "/none: No such file or directory"),
        ("missing", 1, "there is no key no-such-key"),
        ("short", 1, "the key short has 31 bytes"),
        ("resource", 1, "default/credential/test names a resource"),
        ("provider", 1, "provider:eaa:"),
        ("garbage", 1, "the input is not valid JSON"),
        ("nothing", 1, "the input is not valid JSON"),
        ("option", 2, "'--nosuch'; see verdictd-py keyprovider --help"),
        ("no directory", 2, "is not a directory; choose another --data-dir"),
    ],
)
def test_a_failure_is_one_line_for_ocicrypt(
    ended: dict[str, Ended], case: str, status: int, cause: str
) -> None:
    """defects.md 3: a failure must never look like an answer."""
    assert cause in ended[case].complaint(status, PROGRAM)


def test_changed_data_is_never_decrypted(ended: dict[str, Ended], data: Path) -> None:
    """defects.md 3: the original answers `[0]` when authentication fails."""
    packet = packet_in(ended["kid"].json)
    changed = {
        **packet,
        "wrapped_data": [packet["wrapped_data"][0] ^ 1, *packet["wrapped_data"][1:]],
    }
    done = run(command(data, unwrap_input(changed)))
    line = done.complaint(1, PROGRAM)
    assert "authentication failed" in line
    for secret in (KEY, LAYER):
        assert b64(secret) not in line


def test_the_settings_of_the_daemon_are_used(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "keys").mkdir(parents=True)
    (data / "keys" / KID).write_bytes(KEY)
    config = tmp_path / "config.toml"
    config.write_text(f'data_dir = "{data}"\ndefault_wrap_key = "{KID}"\n')
    asked = json.dumps(wrap_input("Enabled")).encode()
    by_file = Run(("keyprovider", "--config", str(config)), asked)
    by_environment = Run(("keyprovider",), asked, environment={"VERDICTD_CONFIG": str(config)})
    for done in run_all({"file": by_file, "environment": by_environment}).values():
        packet = packet_in(done.json)
        assert packet["kid"] == KID
        assert opened(packet, KEY) == LAYER


def test_keys_that_are_in_a_database_are_not_looked_for_in_the_directory(tmp_path: Path) -> None:
    """A key that was created there would encrypt an image that no guest could open."""
    (tmp_path / "postgres").mkdir()
    config = tmp_path / "config.toml"
    config.write_text(f'data_dir = "{tmp_path / "other"}"\nstore = "postgresql://a@db.example/b"\n')
    (tmp_path / "other").mkdir()
    asked = json.dumps(wrap_input("Enabled")).encode()
    runs = {
        "directory": command(tmp_path, asked),
        "settings": Run(("keyprovider", "--config", str(config)), asked),
    }
    for done in run_all(runs).values():
        assert "the keys of this broker are in a database (--store)" in done.complaint(2, PROGRAM)
    assert not (tmp_path / "keys").exists()
    assert not (tmp_path / "other" / "keys").exists()
