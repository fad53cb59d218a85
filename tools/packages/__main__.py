"""The command line: `./dev packages [--arch ARCH] [--output DIR] [--sign KEY] [--version TEXT]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tools.packages.stage import stage
from tools.packages.wheels import ARCHITECTURES, ROOT, collect
from verdictd_py import __version__


def main(argv: Sequence[str]) -> int:
    """Build both packages, and print their paths and sizes."""
    parser = argparse.ArgumentParser(
        prog="./dev packages",
        description="Build a deb and an rpm with nfpm. They carry the wheels for Python 3.11 to "
        "3.14. Two builds of one commit give the same bytes.",
    )
    parser.add_argument("--arch", choices=ARCHITECTURES, default="amd64")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache" / "packages" / "dist")
    parser.add_argument("--sign", type=Path, metavar="KEY", help="OpenPGP secret key, armored")
    parser.add_argument(
        "--version", default=__version__, help="another one, to try upgrades (%(default)s)"
    )
    options = parser.parse_args(argv)
    os.environ.setdefault("SOURCE_DATE_EPOCH", _commit_time())
    options.output.mkdir(parents=True, exist_ok=True)
    build(options.arch, options.output, options.sign, options.version)
    for file in sorted(options.output.glob("verdictd-py*")):
        print(f"{file.name}: {file.stat().st_size / 1e6:.1f} MB")
    return 0


def build(arch: str, output: Path, key: Path | None, version: str = __version__) -> None:
    """Build both packages of an architecture. `SOURCE_DATE_EPOCH` is in the environment.

    Args:
        output: an existing directory.
        key: file with the OpenPGP secret key that signs them; None for no signature.
        version: of the packages; see `collect`.
    """
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        wheels = collect(arch, place / "built", ROOT / ".cache" / "packages", version)
        config = stage(place / "root", wheels, arch, key, version)
        for kind in ("deb", "rpm"):
            _nfpm("package", "-f", str(config), "-p", kind, "-t", str(output))


def _commit_time() -> str:
    command = ("git", "-C", str(ROOT), "log", "-1", "--format=%ct")
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _nfpm(*arguments: str) -> None:
    # nfpm is not among the developers' packages: `./dev packages` installs it into .cache.
    program = ROOT / ".cache" / "packages" / "nfpm" / "bin" / "nfpm"
    subprocess.run([program, *arguments], stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
