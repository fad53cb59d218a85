"""The packages under systemd: installation, upgrade, refusal, another Python, removal."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.certificates import Certificates
from tools.pythons import find
from tools.systemd.cases import (
    CLIENT_API,
    CONFIG,
    GUESTS,
    HTTP,
    KEY,
    PLATFORM,
    command_line,
    get_key,
    get_resource,
    judge,
    to,
    unless,
)
from tools.systemd.machine import SERVICE, Machine, wait_for
from tools.systemd.tree import CHECKOUT
from tools.systemd.variants import INSTANCE, INSTANCE_ADDRESS, start_instance
from tools.torture.scenario import Row
from verdictd_py import __version__

NEWER: Final = "999.0.0"
"""Version of the package to which the current one is upgraded."""

INSTALL_SECONDS: Final = 300.0

_LIB: Final = "/usr/lib/verdictd-py"
_CREDENTIALS: Final = "/etc/verdictd-py/credentials"
_SEALED: Final = f"/var/lib/verdictd-py/keys/{KEY}"
_SETTINGS: Final = f"""# Settings of a site.
listen = "{GUESTS}"
kbs_http = "{HTTP}"
kbs_tls_cert = "/etc/verdictd-py/server.pem"
kbs_tls_key = "credential:server.key"
seal = "credential:kek"
"""
_WRONG: Final = 'kbs_tls_cert = "/etc/verdictd-py/missing.pem"'
_ENCRYPTED: Final = tuple(
    f"LoadCredentialEncrypted={name}:{_CREDENTIALS}/{name}.cred" for name in ("server.key", "kek")
)
# Holds for the newer version alone, and no check can know it.
_NOT_NEWER: Final = f"ExecStartPre=/bin/sh -c 'readlink {_LIB}/environment | grep -qv {NEWER}'"


@dataclass(frozen=True)
class Packages:
    """Packages of the current version and of a newer one: for dpkg, and for rpm."""

    current: Path
    newer: Path
    current_rpm: Path
    newer_rpm: Path

    @classmethod
    def build(cls, directory: Path, log: Path) -> Packages:
        """Build both.

        Raises:
            subprocess.CalledProcessError: the build failed; the log has the reason.
        """
        for version in (__version__, NEWER):
            command = (sys.executable, "-m", "tools.packages", "--version", version)
            with log.open("a") as lines:
                subprocess.run(
                    [*command, "--output", directory / version],
                    cwd=CHECKOUT,
                    stdout=lines,
                    stderr=lines,
                    check=True,
                )
        patterns = (
            f"{version}/*.{kind}" for kind in ("deb", "rpm") for version in (__version__, NEWER)
        )
        return cls(*(next(directory.glob(pattern)) for pattern in patterns))

    def copy(self, root: Path) -> None:
        """Copy them into a tree."""
        for file in (self.current, self.newer):
            shutil.copy(file, root / "root")

    @staticmethod
    def inside(file: Path) -> str:
        """Return the path of a package in the tree."""
        return f"/root/{file.name}"


def install(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Install without a network, encrypt the credentials, and serve guests over both protocols."""
    began = time.monotonic()
    problem = dpkg(machine, "--install", packages.inside(packages.current))
    seconds = time.monotonic() - began
    yield judge("package: `dpkg -i` without a network", f"configured in {seconds:.0f} s", problem)
    settings = machine.root / CONFIG
    yield judge(
        "package: settings, user, units",
        "written, created, not started",
        unless("#listen" in settings.read_text(), "no commented settings"),
        unless(machine.run("getent", "passwd", "verdictd-py").returncode == 0, "no user"),
        unless(machine.show("ActiveState") == "inactive", "started"),
    )
    _credentials(machine)
    settings.write_text(_SETTINGS + settings.read_text())
    machine.change(*command_line(), *_ENCRYPTED)
    with machine.lines() as lines:
        enabled = machine.systemctl("enable", "--now", SERVICE)
        last = "; ".join(lines()[-1:])
    created = machine.run("verdict-py", "-c", CLIENT_API, "key", "create", KEY)
    yield judge(
        "package: enabled; guests of RATS-TLS and HTTPS; credentials encrypted",
        "have their key",
        unless(enabled, last),
        unless(created.returncode == 0, created.stderr.strip()),
        unless(len(key_of(machine)) == 44, "no key over RATS-TLS"),
        get_resource(machine, f"https://{HTTP}", "--ca", "/etc/verdictd-py/ca.pem"),
    )
    stored = (machine.root / _SEALED[1:]).read_bytes()
    yield judge(
        "package: `seal = credential:kek`",
        "the stored key is encrypted",
        unless(stored and key_of(machine).encode() not in stored, "it is plain"),
        unless(len(stored) > 32, "it has the size of a plain key"),
    )


def upgrades(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Upgrade and downgrade brokers that run: the service, and an instance of the template."""
    _, api = start_instance(machine)
    machine.run("verdict-py", "-c", api, "key", "create", KEY)
    for case, file, version in (
        ("upgrade", packages.newer, NEWER),
        ("downgrade", packages.current, __version__),
    ):
        yield _replaced(machine, f"package: {case} to {version}", file, version, brokers=2)
        status = machine.run("verdict-py", "-c", api, "status", "--json")
        yield judge(
            f"package: {case} of `{INSTANCE}` (a dynamic user)",
            f"{version_of(machine, INSTANCE)} runs",
            unless(version_of(machine, INSTANCE) == version, "another version runs"),
            unless(status.returncode == 0, status.stderr.strip()),
            get_key(machine, INSTANCE_ADDRESS),
        )
    machine.systemctl("stop", INSTANCE)


def refused(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Refuse an upgrade when `doctor` fails; the old version serves, also after a crash."""
    settings = machine.root / CONFIG
    good = settings.read_text()
    process = machine.show("MainPID")
    settings.write_text(re.sub("kbs_tls_cert = .*", _WRONG, good, count=1))
    refusal = dpkg(machine, "--install", packages.inside(packages.newer))
    named = [line for line in refusal.splitlines() if "missing.pem" in line]
    yield judge(
        "package: upgrade refused by `doctor`",
        " ".join(" ".join(named[:1]).split()),
        unless(named, f"the fault is not named: {refusal[-200:]}"),
        unless("the old version still runs" in refusal, "no remedy"),
        unless(machine.show("MainPID") == process, "restarted"),
        unless(len(key_of(machine)) == 44, "guests are not served"),
    )
    settings.write_text(good)
    machine.run("sh", "-c", f"kill -s KILL {process}")
    wait_for("a restart", lambda: machine.active_for_another(process))
    yield judge(
        "package: refused, then SIGKILL",
        f"{version_of(machine)} runs again",
        unless(version_of(machine) == __version__, "the refused version runs"),
        unless(len(key_of(machine)) == 44, "guests are not served"),
    )
    yield _replaced(machine, "package: repaired, `dpkg --configure -a`", None, NEWER)


def not_starting(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Go back to the old version when the new one passes `doctor`, and does not start."""
    problem = dpkg(machine, "--install", packages.inside(packages.current))
    machine.change(*command_line(), *_ENCRYPTED, _NOT_NEWER)
    refusal = dpkg(machine, "--install", packages.inside(packages.newer))
    yield judge(
        "package: the new version passes `doctor` and does not start",
        f"{version_of(machine)} was started again",
        problem,
        unless("the old one was started again" in refusal, refusal[-200:]),
        unless(version_of(machine) == __version__, "another version runs"),
        unless(len(key_of(machine)) == 44, "guests are not served"),
    )
    machine.change(*command_line(), *_ENCRYPTED)
    yield _replaced(machine, "package: then `dpkg --configure -a`", None, NEWER)


def another_python(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Replace the Python of the system: the trigger builds the environment for it."""
    del packages
    case = "package: another Python of the system (trigger of dpkg)"
    own = machine.run("python3", "-c", "import sys; print(*sys.version_info[:2])").stdout.split()
    releases = [(3, minor) for minor in range(11, 15) if [*map(str, (3, minor))] != own]
    found = find(releases, os.environ)
    if not found:
        yield Row.skipped(case, "this host has no other supported Python")
        return
    release, python = max(found.items())
    _package_python(machine.root, python)
    options = ("--force-overwrite", "--install", "/root/other-python.deb")
    problem, restarts = _dpkg(machine, *options)
    name = machine.run("readlink", f"{_LIB}/environment").stdout.strip()
    yield judge(
        case,
        f"{'.'.join(own)} to {'.'.join(map(str, release))}: built again, {restarts} restart",
        problem,
        unless(name.endswith("-" + ".".join(map(str, release))), f"the environment is {name}"),
        unless(restarts == 1, f"{restarts} restarts"),
        unless(len(key_of(machine)) == 44, "guests are not served"),
    )
    # The trigger is lost if the link changes without dpkg: the start of the broker notices it.
    machine.systemctl("stop", SERVICE)
    link = machine.root / "usr/bin/python3"
    link.unlink()
    link.symlink_to("python" + ".".join(own))
    started = machine.systemctl("start", SERVICE)
    yield judge(
        "package: another Python without dpkg, at the start",
        "built again",
        unless(started, "not started"),
        unless(len(key_of(machine)) == 44, "guests are not served"),
    )


def removal(machine: Machine, packages: Packages) -> Iterator[Row]:
    """Remove, install again, and purge: keys stay."""
    before = key_of(machine)
    content = _digest(machine)
    problem = dpkg(machine, "--remove", "verdictd-py")
    yield judge(
        "package: `dpkg -r`",
        "stopped; keys and settings stay",
        problem,
        unless(machine.show("ActiveState") in ("inactive", "failed"), "still runs"),
        unless(_digest(machine) == content, "the key is gone"),
        unless((machine.root / CONFIG).exists(), "the settings are gone"),
    )
    problem = dpkg(machine, "--install", packages.inside(packages.newer))
    machine.systemctl("start", SERVICE)
    yield judge(
        "package: installed again",
        "the guest has the same key",
        problem,
        unless(before and key_of(machine) == before, "another key"),
    )
    problem = dpkg(machine, "--purge", "verdictd-py")
    yield judge(
        "package: `dpkg --purge`",
        "keys and the audit trail stay",
        problem,
        unless(_digest(machine) == content, "the key is gone"),
        unless(any((machine.root / "var/lib/verdictd-py/audit").iterdir()), "no audit trail"),
        unless(not (machine.root / CONFIG).exists(), "settings stay"),
        unless(not (machine.root / _LIB[1:]).exists(), f"{_LIB} stays"),
    )


PACKAGE_CASES: Final = (install, upgrades, refused, not_starting, another_python, removal)


def dpkg(machine: Machine, *options: str) -> str:
    """Run dpkg in the machine, and return what it wrote if it failed."""
    ended = machine.run("dpkg", *options, seconds=INSTALL_SECONDS)
    return "" if ended.returncode == 0 else f"dpkg failed: {(ended.stdout + ended.stderr).strip()}"


def key_of(machine: Machine) -> str:
    """Return the key that a genuine guest gets over RATS-TLS, in base64; empty without one."""
    command = ("verdictd-py", "guest", *to(GUESTS), "--base64", "key", KEY)
    return machine.run(*command).stdout.strip()


def version_of(machine: Machine, unit: str = SERVICE) -> str:
    """Return the version of the broker that runs."""
    show = ("systemctl", "show", "--value", "--property=MainPID", unit)
    words = machine.run("cat", f"/proc/{machine.run(*show).stdout.strip()}/cmdline").stdout
    version = re.search(rf"{_LIB}/environment-([0-9.]+)-", words)
    return version.group(1) if version else "unknown"


def _replaced(
    machine: Machine, case: str, file: Path | None, version: str, *, brokers: int = 1
) -> Row:
    """Install a version (or configure the one that is unpacked), and compare before and after."""
    key, settings = key_of(machine), (machine.root / CONFIG).read_text()
    options = ("--configure", "-a") if file is None else ("--install", Packages.inside(file))
    problem, restarts = _dpkg(machine, *options)
    return judge(
        case,
        f"{version_of(machine)} runs, {restarts} restarts of {brokers}, settings and key as before",
        problem,
        unless(version_of(machine) == version, "another version runs"),
        unless(restarts == brokers, f"{restarts} restarts of {brokers}"),
        unless((machine.root / CONFIG).read_text() == settings, "settings changed"),
        unless(key and key_of(machine) == key, "another key"),
        get_resource(machine, f"https://{HTTP}", "--ca", "/etc/verdictd-py/ca.pem"),
    )


def _dpkg(machine: Machine, *options: str) -> tuple[str, int]:
    """Run dpkg; return what it wrote if it failed, and how often the broker started meanwhile."""
    with machine.lines() as lines:
        problem = dpkg(machine, *options)
        return problem, sum(" daemon.started " in f"{line} " for line in lines())


def _digest(machine: Machine) -> str:
    file = machine.root / _SEALED[1:]
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""


def _credentials(machine: Machine) -> None:
    """Make the simulated platform, the certificates, and encrypted credentials."""
    machine.run("verdictd-py", "guest", *to(GUESTS), "policy")
    for name in ("root-ca.pem", "collateral.json"):
        machine.run("install", "--mode=0644", f"{PLATFORM}/{name}", "/etc/verdictd-py/")
    Certificates.below(machine.root / "etc/verdictd-py")
    machine.run("verdictd-py", "store", "new-key", "/etc/verdictd-py/kek")
    for name in ("server.key", "kek"):
        paths = (f"/etc/verdictd-py/{name}", f"{_CREDENTIALS}/{name}.cred")
        machine.run("systemd-creds", "encrypt", "--with-key=host", f"--name={name}", *paths)
        (machine.root / paths[0][1:]).unlink()


def _package_python(root: Path, python: Path) -> None:
    """Pack another Python, in the places of a distribution, to replace `/usr/bin/python3`."""
    stage = root / "root/other-python"
    shutil.rmtree(stage, ignore_errors=True)
    command = (python, "-I", "-c", "import sys; print(sys.base_prefix)")
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    prefix = Path(ended.stdout.strip())
    program = Path(os.path.realpath(prefix / "bin/python3"))
    ignored = shutil.ignore_patterns("test", "tests", "__pycache__", "site-packages", "*.a")
    library = f"usr/lib/{program.name}"
    shutil.copytree(prefix / "lib" / program.name, stage / library, symlinks=True, ignore=ignored)
    # The program names the path of its library on this host; the linker searches /usr/lib, too.
    for file in (prefix / "lib").glob("libpython3.*.so.*"):
        shutil.copy(file, stage / "usr/lib")
    (stage / "usr/bin").mkdir()
    shutil.copy(program, stage / "usr/bin")
    (stage / "usr/bin/python3").symlink_to(program.name)
    (stage / "DEBIAN").mkdir()
    control = "Package: other-python\nVersion: 1\nArchitecture: amd64\n"
    more = "Maintainer: x <x@localhost>\nDescription: another Python\n"
    (stage / "DEBIAN/control").write_text(control + more)
    pack = ("dpkg-deb", "-Znone", "--build", "--root-owner-group", stage)
    subprocess.run([*pack, root / "root/other-python.deb"], stdout=subprocess.DEVNULL, check=True)
    shutil.rmtree(stage)
