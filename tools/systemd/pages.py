"""Commands of pages that need systemd, word for word: `./dev walk` cannot run them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tools.systemd.cases import judge, unless
from tools.systemd.machine import SERVICE, Machine, wait_for
from tools.systemd.packages import INSTALL_SECONDS, Packages, dpkg
from tools.systemd.tree import CHECKOUT
from tools.torture.scenario import Row
from tools.walk.pages import Step, difference, steps
from tools.walk.shell import KEEPS_RUNNING

_PLACE: Final = "/root/page"
_UNIT: Final = "etc/systemd/system/verdictd-py.service"
_LEFT: Final = ("/var/lib/verdictd-py", "/etc/verdictd-py", "/root/rehearsal", "/root/platform")


def service(machine: Machine) -> Iterator[Row]:
    """Follow the chapter of the page for Debian that makes a service of the wheel."""
    unit = machine.root / _UNIT
    before = unit.read_text()
    unit.unlink()
    yield _followed(machine, "docs/install/debian.md", "As a service", path="/opt/verdictd-py/bin:")
    machine.systemctl("disable", "--now", SERVICE)
    unit.write_text(before)
    machine.systemctl("daemon-reload")
    machine.run("rm", "-rf", *_LEFT)


def package(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Follow the page for the packages, from the file to a released key, and to a service."""
    machine.run("mkdir", "-p", _PLACE)
    machine.run("cp", packages.inside(packages.current), _PLACE)
    for chapter in ("From nothing to a released key", "As a service"):
        yield _followed(machine, "docs/install/packages.md", chapter)
        machine.systemctl("stop", "rehearsal")
    dpkg(machine, "--purge", "verdictd-py")
    machine.systemctl("reset-failed")
    machine.run("rm", "-rf", *_LEFT, _PLACE)


def commands_of(page: str, chapter: str) -> list[Step]:
    """Return the commands of a chapter of a page, run by `./dev walk` or not."""
    text = (CHECKOUT / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {chapter}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"{page} has no chapter {chapter}")
    whole = re.sub(r"<!-- walk skip.*?-->\n", "", found.group(1))
    return [step for step in steps(whole) if step.kind == "command"]


def _followed(machine: Machine, page: str, chapter: str, path: str = "") -> Row:
    found = commands_of(page, chapter)
    problems = [problem for step in found if (problem := _follow(machine, step, path))]
    case = f'{page}, "{chapter}"'
    return judge(case, f"{len(found)} commands word for word", *problems[:2])


def _follow(machine: Machine, step: Step, path: str) -> str:
    """Run one command; return why it did not end as the page says, empty if it did."""
    script = f"export PATH={path}$PATH; cd {_PLACE} 2> /dev/null || cd /root; {step.text}"
    if any(pattern.search(step.text) for _, pattern, _ in KEEPS_RUNNING):
        unit = ("systemd-run", "--quiet", "--unit=rehearsal", "--setenv=HOME=/root")
        machine.run(*unit, "bash", "-c", script)
        wait_for("the start", lambda: machine.run("verdict-py", "status").returncode == 0)
        return ""
    ended = machine.run("bash", "-c", script, seconds=INSTALL_SECONDS)
    printed = ended.stdout + ended.stderr
    return unless(
        ended.returncode == step.status,
        f"{step.text}: exit status {ended.returncode}: {printed.strip()[-200:]}",
    ) or unless(
        not step.output or not difference(step.output, printed),
        f"{step.text}: prints {printed.strip()[-200:]}",
    )
