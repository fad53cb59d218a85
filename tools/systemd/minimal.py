"""The package in a minimal Debian without systemd and network: what it needs of the system."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Final

from tools.systemd.cases import judge, unless
from tools.systemd.packages import Packages
from tools.systemd.tree import Tree
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

bad, commands, modules = [], 0, 0
for program in ("verdictd-py", "verdict-py"):
    text = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    names = re.findall(rf"^ +{program} ([a-z-]+)", text, re.MULTILINE) or re.findall(
        r"^    ([a-z-]+) +[A-Za-z]", text, re.MULTILINE)
    for words in ([program], *([program, name] for name in names)):
        done = subprocess.run([*words, "--help"], capture_output=True, text=True)
        commands += 1
        if done.returncode != 0 or "Traceback" in done.stderr:
            bad.append(f"{' '.join(words)}: {done.stderr[-200:]}")
extras = {"asyncpg", "valkey", "pkcs11", "pyrage", "cbor2"}
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
        unless(commands > 20, "commands are missing"),
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
    yield judge(f"{case}`verdictd-py demo`", "", unless(served.returncode == 0, served.stderr))
    purged = tree.run("dpkg", "--purge", "verdictd-py", network=False)
    left = [path for path in ("usr/lib/verdictd-py", "usr/bin/verdict-py") if tree.has(path)]
    yield judge(
        f"{case}`dpkg --purge`",
        "leaves no program",
        unless(purged.returncode == 0, purged.stderr),
        *left,
    )
