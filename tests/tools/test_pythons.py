"""Interpreters that `./dev pythons` finds, and the releases that it must find."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import pythons

SUPPORTED = [(3, 11), (3, 12), (3, 13)]


def program(path: Path, answer: str, *, status: int = 0) -> Path:
    """Write a program in place of an interpreter, which answers every question like this."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{answer}'\nexit {status}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "PATH": str(tmp_path / "bin")}


def test_interpreters_of_path_and_of_pyenv_are_found(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    in_path = program(tmp_path / "bin/python3.12", "3 12 final")
    in_pyenv = program(tmp_path / ".pyenv/versions/3.13.0/bin/python", "3 13 final")
    program(tmp_path / ".pyenv/versions/3.9.18/bin/python", "3 9 final")
    assert pythons.find(SUPPORTED, environment) == {(3, 12): in_path, (3, 13): in_pyenv}


def test_a_shim_that_does_not_run_does_not_conceal_the_interpreter(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """The shims of pyenv for releases that are not selected fail."""
    program(tmp_path / "bin/python3.13", "pyenv: python3.13: command not found", status=127)
    real = program(tmp_path / "other/versions/3.13.0/bin/python", "3 13 final")
    environment["PYENV_ROOT"] = str(tmp_path / "other")
    assert pythons.find(SUPPORTED, environment) == {(3, 13): real}


@pytest.mark.parametrize("answer", ["3 13 candidate", "3 14 final", ""])
def test_other_releases_are_not_used(
    tmp_path: Path, environment: dict[str, str], answer: str
) -> None:
    program(tmp_path / "bin/python3.13", answer)
    assert pythons.find(SUPPORTED, environment) == {}


def test_the_releases_are_those_that_the_package_names() -> None:
    supported = pythons._supported((pythons.ROOT / "pyproject.toml").read_text())
    assert set(SUPPORTED) <= set(supported)


@pytest.mark.parametrize("path", pythons.TESTS)
def test_the_tests_exist(path: str) -> None:
    assert (pythons.ROOT / path).exists()
