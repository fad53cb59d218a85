"""`verdictd-py guest` in environments that container engines make."""

from __future__ import annotations

import pwd
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import run_here

PROGRAM = "verdictd-py guest"


@pytest.fixture
def unserved() -> Iterator[str]:
    """An address that refuses connections while the test runs: bound, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No HOME, and no entry in passwd, as for an arbitrary user of a container."""

    def unknown(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("protocol", ["ratstls", "rcar"])
def test_without_a_home_it_names_the_option(
    protocol: str, unserved: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    words = ["guest", "--connect", unserved, "--protocol", protocol, "policy"]

    complaint = run_here(words, capfdbinary).complaint(2, PROGRAM)

    assert complaint.endswith("; give --platform DIR")


def test_with_a_home_that_cannot_be_written_it_names_the_option(
    unserved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HOME", str(tmp_path / "file"))

    ended = run_here(["guest", "--connect", unserved, "policy"], capfdbinary)

    assert "give --platform DIR" in ended.complaint(2, PROGRAM)


@pytest.mark.usefixtures("homeless")
def test_it_reads_address_and_platform_from_the_environment(
    unserved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setenv("VERDICTD_PY_GUEST_CONNECT", unserved)
    monkeypatch.setenv("VERDICTD_PY_GUEST_PLATFORM", str(tmp_path / "platform"))

    ended = run_here(["guest", "policy"], capfdbinary)

    assert f"cannot connect to {unserved}: " in ended.complaint(3, PROGRAM)
    assert (tmp_path / "platform/root-ca.pem").exists()


def test_it_reads_the_broker_s_ca_from_the_environment(
    unserved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setenv("VERDICTD_PY_GUEST_CA", str(tmp_path / "missing.pem"))
    words = ["guest", "--connect", unserved, "--platform", str(tmp_path / "platform")]

    rcar = run_here([*words, "--protocol", "rcar", "policy"], capfdbinary).complaint(2, PROGRAM)
    ratstls = run_here([*words, "policy"], capfdbinary)

    assert "missing.pem" in rcar
    assert "missing.pem" not in ratstls.complaint(3, PROGRAM), "RATS-TLS guests have no CA"


def test_options_override_the_environment(
    unserved: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.setenv("VERDICTD_PY_GUEST_CONNECT", "broker.invalid:1")
    words = ["guest", "--connect", unserved, "--platform", str(tmp_path / "platform"), "policy"]

    complaint = run_here(words, capfdbinary).complaint(3, PROGRAM)
    assert f"cannot connect to {unserved}: " in complaint


def test_a_misspelled_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("VERDICTD_PY_GUEST_CONECT", "127.0.0.1:1")

    complaint = run_here(["guest", "policy"], capfdbinary).complaint(2, PROGRAM)

    assert complaint.startswith("VERDICTD_PY_GUEST_CONECT in the environment is not an option")
