"""The units of systemd: exposure, and that the template follows the unit."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "verdictd_py" / "deploy"
UNIT = DEPLOY / "verdictd-py.service"
TEMPLATE = DEPLOY / "verdictd-py@.service"


def directives(unit: Path) -> list[str]:
    """Return the lines of a unit that have an effect."""
    return [line for line in unit.read_text().splitlines() if line and line[0] not in "#;"]


def test_the_template_differs_in_names_only() -> None:
    expected = []
    for line in directives(UNIT):
        text = line.replace("/config.toml", "/%i.toml")
        text = re.sub("^((State|Cache|Runtime)Directory|User)=verdictd-py$", r"\g<0>-%i", text)
        text = re.sub("^Description=.*", r"\g<0> (%i)", text)
        expected.append(text)
    assert directives(TEMPLATE) == expected


@pytest.mark.parametrize(
    ("unit", "drop_in", "threshold"),
    [
        ("verdictd-py.service", None, 11),
        ("verdictd-py@.service", None, 11),
        ("verdictd-py.service", "verdictd-py.air-gapped.conf", 3),
    ],
)
def test_exposure(tmp_path: Path, unit: str, drop_in: str | None, threshold: int) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    shutil.copy(DEPLOY / unit, tmp_path)
    if drop_in is not None:
        (tmp_path / f"{unit}.d").mkdir()
        shutil.copy(DEPLOY / drop_in, tmp_path / f"{unit}.d")
    security = ["systemd-analyze", "security", "--offline=true", "--no-pager"]
    done = subprocess.run(
        [*security, f"--threshold={threshold}", tmp_path / unit],
        capture_output=True,
        text=True,
        check=False,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze does not know --offline")
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_settings_are_not_retried() -> None:
    for unit in (UNIT, TEMPLATE, DEPLOY / "verdictd-py.container"):
        assert "RestartPreventExitStatus=2" in directives(unit)


def test_each_directive_that_is_off_has_its_reason() -> None:
    comment = "".join(line for line in UNIT.read_text().splitlines() if line.startswith("#"))
    off = "MemoryDenyWriteExecute= PrivateNetwork= IPAddressDeny= RootDirectory= DeviceAllow="
    for name in (*off.split(), "AF_UNIX", "AF_NETLINK", "AF_INET6"):
        assert name in comment, name
