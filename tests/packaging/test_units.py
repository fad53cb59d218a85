"""The units of systemd: exposure, and that the template follows the unit."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

DEPLOY = Path(__file__).resolve().parents[2] / "verdictd_py" / "deploy"
UNIT = DEPLOY / "verdictd-py.service"
TEMPLATE = DEPLOY / "verdictd-py@.service"
AIR_GAPPED = DEPLOY / "verdictd-py.air-gapped.conf"

OFF: Final = {
    "DeviceAllow=",
    "IPAddressDeny=",
    "MemoryDenyWriteExecute=",
    "PrivateNetwork=",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "RestrictAddressFamilies=~AF_NETLINK",
    "RestrictAddressFamilies=~AF_UNIX",
    "RootDirectory=/RootImage=",
}
"""What `systemd-analyze security` finds open; the unit has the reason of each in a comment."""

OFF_WITHOUT_NETWORK: Final = OFF - {
    "IPAddressDeny=",
    "PrivateNetwork=",
    "RestrictAddressFamilies=~AF_(INET|INET6)",
    "RestrictAddressFamilies=~AF_NETLINK",
}

NOT_ANALYSED: Final = {
    "AmbientCapabilities=",
    "DevicePolicy=closed",
    "PrivateIPC=yes",
    "SystemCallErrorNumber=EPERM",
}
"""Directives of the sandbox that `systemd-analyze security` does not weigh."""


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


def security(directory: Path, text: str, drop_in: str, *more: str) -> str:
    """Return what `systemd-analyze security` prints about a unit; empty above the threshold."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is missing")
    unit = directory / "verdictd-py.service"
    unit.write_text(text)
    drop_ins = directory / "verdictd-py.service.d"
    drop_ins.mkdir(exist_ok=True)
    (drop_ins / "air-gapped.conf").write_text(drop_in)
    command = ["systemd-analyze", "security", "--offline=true", "--no-pager", *more, str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze does not know --offline and --json")
    return done.stdout if done.returncode == 0 else ""


def without_dynamic_user(unit: Path) -> str:
    """Return a unit as the packages have it: DynamicUser= implies other directives."""
    return unit.read_text().replace("\nDynamicUser=yes\n", "\n")


def off(directory: Path, text: str, drop_in: str = "") -> set[str]:
    """Return what `systemd-analyze security` finds open."""
    found = json.loads(security(directory, text, drop_in, "--json=short"))
    return {one["name"] for one in found if not one["set"] and one["exposure"]}


@pytest.mark.parametrize("packaged", [False, True])
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE])
@pytest.mark.parametrize(
    ("drop_in", "threshold", "expected"),
    [("", 11, OFF), (AIR_GAPPED.read_text(), 3, OFF_WITHOUT_NETWORK)],
)
def test_exposure(
    tmp_path: Path, unit: Path, packaged: bool, drop_in: str, threshold: int, expected: set[str]
) -> None:
    text = without_dynamic_user(unit) if packaged else unit.read_text()
    assert security(tmp_path, text, drop_in, f"--threshold={threshold}")
    assert off(tmp_path, text, drop_in) == expected


def test_no_directive_of_the_sandbox_can_be_removed(tmp_path: Path) -> None:
    text = without_dynamic_user(UNIT)
    lines = text.splitlines()
    sandbox = lines[lines.index("CapabilityBoundingSet=") : lines.index("[Install]")]
    removable = {
        line
        for line in sandbox
        if line and line[0] != "#" and off(tmp_path, text.replace(f"\n{line}\n", "\n", 1)) == OFF
    }
    assert removable == NOT_ANALYSED


@pytest.mark.parametrize("line", ["PrivateNetwork=yes", "IPAddressDeny=any"])
def test_no_directive_of_the_air_gap_can_be_removed(tmp_path: Path, line: str) -> None:
    drop_in = AIR_GAPPED.read_text()
    assert f"\n{line}\n" in drop_in
    weaker = drop_in.replace(f"\n{line}\n", "\n")
    assert off(tmp_path, UNIT.read_text(), weaker) > OFF_WITHOUT_NETWORK


def test_the_quadlet_has_options_that_podman_knows() -> None:
    """podman refuses uid= and gid= of a tmpfs, and other users may write the top of the volume."""
    text = (DEPLOY / "verdictd-py.container").read_text()
    assert not re.search("^Tmpfs=.*[ug]id=", text, re.MULTILINE)
    assert "--data-dir" not in "".join(re.findall("^Exec=.*", text, re.MULTILINE))


def test_wrong_settings_are_not_retried() -> None:
    for unit in (UNIT, TEMPLATE, DEPLOY / "verdictd-py.container"):
        assert "RestartPreventExitStatus=2" in directives(unit)


def test_each_directive_that_is_off_has_its_reason() -> None:
    comment = "".join(line for line in UNIT.read_text().splitlines() if line.startswith("#"))
    off = "MemoryDenyWriteExecute= PrivateNetwork= IPAddressDeny= RootDirectory= DeviceAllow="
    for name in (*off.split(), "AF_UNIX", "AF_NETLINK", "AF_INET6"):
        assert name in comment, name
