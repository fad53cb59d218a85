"""The command line: `./dev systemd [SUITE ...]`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tools.systemd.cases import CASES, judge, prepare, unless
from tools.systemd.machine import Machine
from tools.systemd.minimal import minimal, quadlet, rpm
from tools.systemd.packages import PACKAGE_CASES, Packages
from tools.systemd.pages import package, service
from tools.systemd.tree import MIRROR, Tree, build_wheel
from tools.systemd.variants import VARIANTS
from tools.torture.scenario import FAILED, Row

SUITES: Final = ("bookworm", "trixie")
PARTS: Final = ("units", "packages")
NEEDED: Final = ("debootstrap", "systemd-nspawn", "nsenter", "unshare")
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130

# What each container needs first (`machine.py`).
_PROBE: Final = (
    *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-ec"),
    "umount --recursive /sys/fs/cgroup || true; mount -t cgroup2 none /sys/fs/cgroup",
)

# A broker and one genuine guest, without systemd; everything is below /tmp/minimal.
_MINIMAL: Final = """
cd "$(mktemp -d)"
verdictd-py guest --connect 127.0.0.1:1 --platform "$PWD/platform" policy 2> /dev/null || true
verdictd-py --listen 127.0.0.1:0 --client-api "unix:$PWD/api" --data-dir "$PWD/data" \
  --unsafe-tdx-root-ca platform/root-ca.pem --collateral platform/collateral.json 2> log &
for second in $(seq 300); do
  grep -q daemon.started log && break
  kill -0 $! || { cat log; exit 1; }
  sleep 1
done
address=$(sed -n 's/.* daemon.started .*listen="\\([^"]*\\)".*/\\1/p' log)
verdictd-py guest --connect "$address" --platform "$PWD/platform" --timeout 120 policy
kill $!
wait $!
"""


def main(argv: Sequence[str]) -> int:
    """Run all cases on each suite and print their table; return 1 if a row failed."""
    parser = argparse.ArgumentParser(
        prog="./dev systemd",
        description="Boot a real systemd in a minimal Debian, run the broker as its units and "
        "from its packages, and print a table. Needs root, debootstrap, systemd-nspawn (Debian: "
        "systemd-container), and a mirror of Debian and PyPI. Takes 20 minutes and 3 GiB, and "
        "removes what it made.",
    )
    parser.add_argument("suite", nargs="*", help=f"default: {' and '.join(SUITES)}")
    parser.add_argument("--mirror", default=MIRROR, help=f"of Debian ({MIRROR})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="use and keep the trees in DIR")
    parser.add_argument("--only", choices=PARTS, help="the units, or the packages; default: both")
    options = parser.parse_args(argv)
    parts = PARTS if options.only is None else (options.only,)
    if unknown := [suite for suite in options.suite if suite not in SUITES]:
        parser.error(f"{unknown[0]} is not a suite: choose from {', '.join(SUITES)}")
    if os.geteuid() != 0:
        return _unavailable("only root can boot a container; run it as root")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return _unavailable(
            f"{missing[0]} is missing; on Debian: apt-get install debootstrap systemd-container"
        )
    tried = subprocess.run(_PROBE, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return _unavailable(f"this machine boots no container: {tried.stderr.strip()}")
    # An exception unwinds the containers, so that none is left.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = options.keep or Path(tempfile.mkdtemp(prefix="verdictd-py-systemd-"))
    directory.mkdir(exist_ok=True)
    try:
        rows = list(_run_all(options.suite or SUITES, parts, directory, options.mirror))
    except KeyboardInterrupt:
        rows = []
    finally:
        if options.keep is None:
            shutil.rmtree(directory)
    if not rows:
        return INTERRUPTED
    print("\n| system | case | figures | result |\n| --- | --- | --- | --- |")
    for system, row in rows:
        cells = (text.replace("|", "/").replace("\n", " ") for text in (row.case, row.figures))
        print(f"| {system} | {' | '.join(cells)} | {row.result} |")
    return int(any(row.result == FAILED for _, row in rows))


def _unavailable(cause: str) -> int:
    print(f"./dev systemd: {cause}", file=sys.stderr)
    return UNAVAILABLE


def _run_all(
    suites: Sequence[str], parts: Sequence[str], directory: Path, mirror: str
) -> Iterator[tuple[str, Row]]:
    log = directory / "build.log"
    with tempfile.TemporaryDirectory() as built:
        wheel = build_wheel(Path(built), log) if "units" in parts else None
        packages = Packages.build(Path(built), log) if "packages" in parts else None
        for suite in suites:
            if wheel is not None:
                yield from _reported(directory / suite, suite, partial(_units, mirror, wheel))
            if packages is not None:
                root = directory / f"{suite}-package"
                yield from _reported(root, suite, partial(_packages, mirror, packages))
                root = directory / f"{suite}-rpm"
                yield from _reported(root, suite, partial(_rpm, mirror, packages))


def _reported(
    root: Path, suite: str, cases: Callable[[Tree, Path], Iterator[Row]]
) -> Iterator[tuple[str, Row]]:
    """Print each row at once; an error that ends the cases is a row, too."""
    log = root.with_name(f"{root.name}.log")
    try:
        for row in cases(Tree(root, suite, log), log):
            print(f"{suite}: {row.result}: {row.case}: {row.figures}", flush=True)
            yield suite, row
    except (OSError, subprocess.SubprocessError) as error:
        lines = log.read_text() if log.exists() else ""
        print(f"{suite}: {error}\n{lines[-2000:]}", file=sys.stderr)
        yield suite, Row(f"ended by {type(error).__name__}", str(error), FAILED)


def _packages(mirror: str, packages: Packages, tree: Tree, log: Path) -> Iterator[Row]:
    tree.make(mirror)
    if not tree.has("usr/bin/systemd-analyze"):  # an earlier run has made the tree
        yield from minimal(tree, packages)
    tree.add_systemd()
    packages.copy(tree.root)
    with Machine(tree.root, log.with_suffix(".console")) as machine:
        for case in (package, *PACKAGE_CASES):
            yield from case(machine, packages)


def _rpm(mirror: str, packages: Packages, tree: Tree, log: Path) -> Iterator[Row]:
    del log
    tree.make(mirror)
    yield from rpm(tree, packages)
    yield from quadlet(tree)


def _units(mirror: str, wheel: Path, tree: Tree, log: Path) -> Iterator[Row]:
    tree.make(mirror)
    tree.add_wheel(wheel)
    version = tree.run("verdictd-py", "--version")
    yield judge(
        "python3 and python3-venv only: `verdictd-py --version`",
        version.stdout.strip(),
        unless(version.returncode == 0, version.stderr.strip()),
    )
    served = tree.run("sh", "-ec", _MINIMAL)
    yield judge(
        "python3 and python3-venv only: a broker and a genuine guest",
        "has the image policy",
        unless(served.returncode == 0 and '"default"' in served.stdout, served.stderr.strip()),
    )
    tree.add_systemd()
    tree.add_units()
    with Machine(tree.root, log.with_suffix(".console")) as machine:
        system = machine.run("systemctl", "--version").stdout.splitlines()[0]
        yield judge("boot", system)
        yield from service(machine)
        prepare(machine)
        for case in (*CASES, *VARIANTS):
            yield from case(machine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
