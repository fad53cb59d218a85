"""The packages in a minimal Debian without systemd and network: what they need of the system."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

from tools.systemd.cases import CONFIG, judge, unless
from tools.systemd.packages import NEWER, Packages
from tools.systemd.tree import CHECKOUT, Tree
from tools.torture.scenario import Row

ENVIRONMENT: Final = "/usr/lib/verdictd-py/environment"
ALLOWED: Final = ("libc6", "libgcc-s1", "libstdc++6")
"""Packages of Debian whose libraries the program may use; glibc, libgcc and libstdc++."""

_EXAMINE: Final = """
import json, re, subprocess, sys
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import verdictd_py
from verdictd_py.cli.programs import command_lines

bad, commands, modules = [], 0, 0
for program in ("verdictd-py", "verdict-py"):
    for words in (line.words for line in command_lines(program)):
        done = subprocess.run([*words, "--help"], capture_output=True, text=True)
        commands += 1
        if done.returncode != 0 or "Traceback" in done.stderr:
            bad.append(f"{' '.join(words)}: {done.stderr[-200:]}")
extras = {"psycopg", "psycopg_pool", "valkey", "pkcs11", "pyrage", "opentelemetry"}
for found in walk_packages(verdictd_py.__path__, "verdictd_py."):
    modules += 1
    try:
        import_module(found.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in extras:
            bad.append(f"{found.name}: {error}")
    except BaseException as error:
        bad.append(f"{found.name}: {error}")
libraries, used = 0, set()
for file in Path(sys.prefix, "lib").rglob("*.so*"):
    libraries += 1
    text = subprocess.run(["ldd", file], capture_output=True, text=True).stdout
    bad += [f"{file.name}: {line.strip()}" for line in text.splitlines() if "not found" in line]
    used |= {str(Path(path).resolve()) for path in re.findall(r"=> (/\\S+)", text)}
print(json.dumps([bad, commands, modules, libraries, sorted(used)]))
"""

# Not installed: only its program that reads quadlets runs. The status is 9 before podman 4.4.
_QUADLET: Final = """
cd "$(mktemp -d)"
apt-get download -qq podman 2> /dev/null
dpkg-deb -x podman_*.deb podman
[ -x podman/usr/libexec/podman/quadlet ] || exit 9
QUADLET_UNIT_DIRS=/opt/quadlet podman/usr/libexec/podman/quadlet -dryrun
"""


def minimal(tree: Tree, packages: Packages) -> Iterator[Row]:
    """Install the package in a tree that has only Python, start every command, and purge it."""
    case = "python3 only, no network: "
    packages.copy(tree.root)
    installed = tree.run("dpkg", "--install", packages.inside(packages.current), network=False)
    yield judge(
        f"{case}`dpkg -i`", "configured", unless(installed.returncode == 0, installed.stderr)
    )
    (tree.root / "root/examine.py").write_text(_EXAMINE)
    command = (f"{ENVIRONMENT}/bin/python", "-I", "/root/examine.py")
    examined = tree.run("env", f"PATH={ENVIRONMENT}/bin:/usr/bin:/bin", *command, network=False)
    if examined.returncode != 0:
        yield judge(f"{case}every command starts", "", examined.stderr.strip()[-300:])
        return
    bad, commands, modules, libraries, used = json.loads(examined.stdout)
    yield judge(
        f"{case}every command starts",
        f"{commands} commands, {modules} modules",
        unless(commands > 40, "commands are missing"),
        *bad[:3],
    )
    foreign = [path for path in used if not path.startswith("/usr/lib/verdictd-py/")]
    owners = set()
    for path in foreign:
        # Debian 12 has links from /lib to /usr/lib, which dpkg does not know.
        found = tree.run("dpkg-query", "--search", f"*/{path.rpartition('/')[2]}").stdout
        owners.add(found.partition(":")[0])
    yield judge(
        f"{case}{libraries} libraries of the wheels",
        f"need {', '.join(sorted(owners))}",
        *(f"needs {name}" for name in sorted(owners - {*ALLOWED})),
    )
    served = tree.run("verdictd-py", "demo", "--exit", network=False)
    demo = f"{case}`verdictd-py demo`"
    yield judge(demo, "guests get their secrets", unless(served.returncode == 0, served.stderr))
    purged = tree.run("dpkg", "--purge", "verdictd-py", network=False)
    left = [path for path in ("usr/lib/verdictd-py", "usr/bin/verdict-py") if tree.has(path)]
    yield judge(
        f"{case}`dpkg --purge`",
        "leaves no program",
        unless(purged.returncode == 0, purged.stderr),
        *left,
    )


def rpm(tree: Tree, packages: Packages) -> Iterator[Row]:
    """Install, upgrade and erase the rpm in a scratch root. Its Python is Debian's."""
    case = "scratch root: `rpm "
    if shutil.which("rpm") is None:
        yield Row.skipped(f"{case}-i`", "this host has no rpm; on Debian: apt-get install rpm")
        return
    # Debian's rpm warns without this option, which no other one has.
    known = subprocess.run(["rpm", "--help"], capture_output=True, text=True, check=False).stdout
    force = ("--force-debian",) if "--force-debian" in known else ()
    settings, key = tree.root / CONFIG, tree.root / "var/lib/verdictd-py/keys/default/key/1"

    def run(*options: str) -> str:
        # The dependencies are packages of RPM systems.
        command = [
            "unshare",
            "--net",
            "rpm",
            "--root",
            str(tree.root),
            "--nodeps",
            *force,
            *options,
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        return (ended.stdout + ended.stderr).strip()

    for option, file, version in (
        ("-i", packages.current_rpm, packages.current.name.split("_")[1].rpartition("-")[0]),
        ("-U", packages.newer_rpm, NEWER),
    ):
        written = run(option, str(file))
        printed = tree.run("verdictd-py", "--version", network=False).stdout.strip()
        served = tree.run("verdictd-py", "demo", "--exit", network=False)
        yield judge(
            f"{case}{option}`, no network",
            printed,
            written,
            unless(printed.endswith(version), f"not {version}"),
            unless(served.returncode == 0, served.stderr.strip()[-200:]),
            unless(settings.exists(), "no settings"),
            unless(option == "-i" or "# mine" in settings.read_text(), "settings changed"),
        )
        settings.write_text("# mine\n" + settings.read_text())
        key.parent.mkdir(parents=True, exist_ok=True)
        key.write_bytes(bytes(32))
    written = run("-e", "verdictd-py")
    yield judge(
        f"{case}-e`",
        "keys and settings stay",
        unless("/var/lib/verdictd-py" in written, f"not said where: {written}"),
        unless(key.exists(), "the key is gone"),
        unless(settings.exists(), "the settings are gone"),
        unless(not tree.has("usr/lib/verdictd-py"), "the program stays"),
    )


def quadlet(tree: Tree) -> Iterator[Row]:
    """Have podman's generator make services of the quadlet, and refuse a wrong one."""
    case = "`quadlet -dryrun`"
    place = tree.root / "opt/quadlet"
    place.mkdir(exist_ok=True)
    for kind in ("container", "volume"):
        shutil.copy(CHECKOUT / "verdictd_py/deploy" / f"verdictd-py.{kind}", place)
    made = tree.run("sh", "-c", _QUADLET)
    if made.returncode == 9:
        yield Row.skipped(case, "podman of this release has none")
        return
    container = place / "verdictd-py.container"
    container.write_text(container.read_text().replace("ReadOnly=", "ReadOnyl="))
    refused = tree.run("sh", "-c", _QUADLET)
    yield judge(
        case,
        "a service and a volume; a misspelt key is refused",
        unless(made.returncode == 0, made.stderr.strip()[-300:]),
        unless("ExecStart=/usr/bin/podman run" in made.stdout, "no service"),
        unless("ExecStart=/usr/bin/podman volume create" in made.stdout, "no volume"),
        unless("ReadOnyl" in refused.stderr, "accepts a misspelt key"),
    )
