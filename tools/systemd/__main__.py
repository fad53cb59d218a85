"""The command line: `./dev systemd [SUITE ...]`."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tools.systemd.cases import CASES, judge, prepare, unless
from tools.systemd.machine import Machine
from tools.systemd.tree import MIRROR, Tree, build_wheel
from tools.systemd.variants import VARIANTS
from tools.torture.scenario import FAILED, Row

SUITES: Final = ("bookworm", "trixie")
NEEDED: Final = ("debootstrap", "systemd-nspawn", "nsenter", "unshare")
UNAVAILABLE: Final = 3
INTERRUPTED: Final = 130

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
        description="Boot a real systemd in a minimal Debian, run the broker as its units, and "
        "print a table. Needs root, debootstrap, systemd-nspawn (Debian: systemd-container), and "
        "a mirror of Debian and PyPI. Takes some minutes and 1 GiB, and removes what it made.",
    )
    parser.add_argument("suite", nargs="*", help=f"default: {' and '.join(SUITES)}")
    parser.add_argument("--mirror", default=MIRROR, help=f"of Debian ({MIRROR})")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="use and keep the trees in DIR")
    options = parser.parse_args(argv)
    if unknown := [suite for suite in options.suite if suite not in SUITES]:
        parser.error(f"{unknown[0]} is not a suite: choose from {', '.join(SUITES)}")
    if os.geteuid() != 0:
        return _unavailable("only root can boot a container; run it as root")
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return _unavailable(
            f"{missing[0]} is missing; on Debian: apt-get install debootstrap systemd-container"
        )
    # An exception unwinds the containers, so that none is left.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    directory = options.keep or Path(tempfile.mkdtemp(prefix="verdictd-py-systemd-"))
    directory.mkdir(exist_ok=True)
    try:
        rows = list(_run_all(options.suite or SUITES, directory, options.mirror))
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


def _run_all(suites: Sequence[str], directory: Path, mirror: str) -> Iterator[tuple[str, Row]]:
    with tempfile.TemporaryDirectory() as built:
        wheel = build_wheel(Path(built), directory / "build.log")
        for suite in suites:
            log = directory / f"{suite}.log"
            try:
                for row in _run(Tree(directory / suite, suite, log), mirror, wheel, log):
                    print(f"{suite}: {row.result}: {row.case}: {row.figures}", flush=True)
                    yield suite, row
            except (OSError, subprocess.SubprocessError) as error:
                print(f"{suite}: {error}\n{log.read_text()[-2000:]}", file=sys.stderr)
                yield suite, Row(f"ended by {type(error).__name__}", str(error), FAILED)


def _run(tree: Tree, mirror: str, wheel: Path, log: Path) -> Iterator[Row]:
    tree.make(mirror, wheel)
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
    with Machine(tree.root, log.with_suffix(".console")) as machine:
        system = machine.run("systemctl", "--version").stdout.splitlines()[0]
        yield judge("boot", system)
        prepare(machine)
        for case in (*CASES, *VARIANTS):
            yield from case(machine)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
