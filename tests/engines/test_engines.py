"""Each engine of `./dev engines` starts, starts again as it is, and leaves nothing running."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.support.command import OUR_VARIABLES
from tests.support.engines import engine_in
from tools.engines.__main__ import ENGINES

_SECRETS = ("password", "pin", "root-token", "unseal-key")


def _processes_of(*directories: Path) -> set[str]:
    """Command lines, without this process, that name one of the directories."""
    lines = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        named = any(os.fsencode(directory) in command for directory in directories)
        if named and entry.name != str(os.getpid()):
            lines.add(command.replace(b"\0", b" ").decode(errors="replace"))
    return lines


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_starts_once_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    directory = tmp_path / name
    engine = engine_in(directory, ENGINES[name])
    try:
        variables = engine.start()
        data = (directory / "data").resolve()  # PostgreSQL's is elsewhere: tmp_path is private
        running = _processes_of(directory, data)
        assert not [name for name in variables if name.startswith(OUR_VARIABLES)]
        assert engine_in(directory, ENGINES[name]).start() == variables
        assert _processes_of(directory, data) == running
        assert bool(running) == (name != "softhsm")
        secrets = [file for file in directory.glob("*") if file.name in _SECRETS]
        assert secrets
        assert {stat.S_IMODE(file.stat().st_mode) for file in secrets} == {0o600}
    finally:
        engine.remove()
    assert not directory.exists()
    assert not data.exists()
    assert _processes_of(directory, data) == set()


def test_no_variable_of_engines_is_one_of_the_broker() -> None:
    """The broker refuses variables that it does not know: one may be a misspelled setting."""
    former = "VERDICTD_" + "TEST_"
    root = Path(__file__).parents[2]
    files = [
        file for top in ("tests", "tools", "benchmarks") for file in (root / top).rglob("*.py")
    ]
    assert not [str(file) for file in files if former in file.read_text(errors="replace")]
