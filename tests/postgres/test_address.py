"""Which addresses of a database are accepted, and how the connection is protected."""

from __future__ import annotations

from pathlib import Path

import pytest

from verdictd_py.config import Settings
from verdictd_py.errors import ConfigError
from verdictd_py.postgres.address import Address
from verdictd_py.secretfiles import SecretFileUnusable


def test_the_server_is_verified_by_default() -> None:
    parameters = Address.parse("postgresql://broker@db.example/site").parameters
    assert parameters["sslmode"] == "verify-full"
    assert parameters["target_session_attrs"] == "read-write"
    assert "password" not in parameters


@pytest.mark.parametrize("mode", ["disable", "allow", "prefer", "require", "verify-ca"])
def test_a_mode_that_does_not_verify_needs_an_unsafe_option(mode: str) -> None:
    url = f"postgresql://broker@db.example/site?sslmode={mode}"
    with pytest.raises(ConfigError, match=f"sslmode={mode} does not verify the server"):
        Address.parse(url)
    assert Address.parse(url, unsafe_tls=True).parameters["sslmode"] == mode


def test_a_unix_socket_does_not_lead_to_another_host_without_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    socket = "postgresql:///site?host=/run/postgresql"
    with pytest.raises(ConfigError, match="without TLS"):
        Address.parse(f"{socket}&hostaddr=192.0.2.1")
    monkeypatch.setenv("PGHOSTADDR", "192.0.2.1")
    with pytest.raises(ConfigError, match="without TLS"):
        Address.parse(socket)


def test_a_unix_socket_needs_no_tls() -> None:
    parameters = Address.parse("postgresql:///site?host=/run/postgresql").parameters
    assert parameters["sslmode"] == "disable"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql:///site",
        "postgresql://broker:hunter2@db.example/site",
        "postgresql://broker@db.example/site?password=hunter2",
        "postgresql://broker@db.example/site?options=-csearch_path%3Dhunter2",
        "postgresql://broker@db.example/site?service=hunter2",
        "postgresql://broker@db.example/site?nonsense=hunter2",
        "postgresql://broker@db.example:hunter2/site?=",
    ],
)
def test_an_address_that_cannot_be_used_is_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError) as raised:
        Address.parse(url)
    assert "hunter2" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert ("--store-password-file" in str(raised.value)) == (
        "password" in url or ":hunter2@" in url
    )


@pytest.mark.parametrize("setting", ["store", "kbs_sessions"])
def test_a_password_on_the_command_line_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match="it has a password") as raised:
        Settings.model_validate({setting: "postgresql://broker:hunter2@db.example/site"})
    assert "hunter2" not in str(raised.value)


def test_the_password_is_read_from_a_file_that_only_some_users_can_read(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("hunter2\n")
    address = Address.parse("postgresql://broker@db.example/site", password_file=file)
    file.chmod(0o640)
    assert address.password() == "hunter2"
    assert "hunter2" not in repr(address)
    file.chmod(0o644)
    with pytest.raises(SecretFileUnusable, match="chmod g-w,o="):
        address.password()
    file.unlink()
    with pytest.raises(SecretFileUnusable, match="cannot read the password"):
        address.password()
