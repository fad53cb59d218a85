"""The scripts of the deb and the rpm: what they do for each word of dpkg and rpm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools.packages.wheels import requirements
from verdictd_py.cli.config.example import example

FILES = Path(__file__).resolve().parents[2] / "tools" / "packages" / "files"
SCRIPTS = ("setup", "postinstall", "preremove", "postremove")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_valid(name: str) -> None:
    subprocess.run(["sh", "-n", FILES / name], check=True)


@pytest.mark.parametrize("word", ["upgrade", "failed-upgrade", "1"])
@pytest.mark.parametrize("name", ["preremove", "postremove"])
def test_an_upgrade_removes_nothing(name: str, word: str) -> None:
    done = subprocess.run(
        ["sh", "-ex", FILES / name, word], capture_output=True, text=True, check=True
    )
    assert not {"rm", "systemctl"} & set(done.stderr.split())


def test_no_script_removes_keys() -> None:
    """Purging removes the settings, as for a file of the package."""
    for name in SCRIPTS:
        for line in (FILES / name).read_text().splitlines():
            if "rm " in line or "rmdir" in line:
                assert "/var/lib" not in line
                assert "/etc" not in line.replace("/etc/verdictd-py/config.toml", "")


def test_the_installation_writes_settings_once(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("systemd-sysusers", "systemd-tmpfiles", "systemctl", "setup", "verdictd-py"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    broker = f'#!/bin/sh\nexec {sys.executable} -m verdictd_py.cli.main "$@"\n'
    (programs / "verdictd-py").write_text(broker)
    script = (FILES / "postinstall").read_text()
    for path in ("/usr/lib/verdictd-py", "/usr/bin"):
        script = script.replace(f"{path}/", f"{programs}/")
    script = script.replace("/etc/verdictd-py", str(tmp_path))
    search = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    settings = tmp_path / "config.toml"

    subprocess.run(["sh", "-c", script, "postinstall", "configure"], check=True, env=search)

    assert settings.read_text() == example()
    assert settings.stat().st_mode & 0o777 == 0o644
    settings.write_text("# mine\n")
    for word in ("configure", "triggered", "2"):
        subprocess.run(["sh", "-c", script, "postinstall", word], check=True, env=search)
    assert settings.read_text() == "# mine\n"


def test_requirements_have_the_hashes_of_the_wheels(tmp_path: Path) -> None:
    for name in ("a_b-1.0-cp311-x.whl", "a_b-1.0-cp312-x.whl", "pip-26.3-py3-none-any.whl"):
        (tmp_path / name).write_text(name)
    (line,) = requirements(sorted(tmp_path.iterdir())).splitlines()
    assert line.startswith("a-b==1.0 --hash=sha256:")
    assert line.count("--hash") == 2
