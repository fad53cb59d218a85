"""The command line: `./dev bundle [--only PARTS] [--without PARTS] [--key FILE] [--output DIR]`.

Exit status 1 if a part is missing or cannot be built.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.archives import write_tar
from tools.bundle import parts
from tools.bundle.seal import seal
from tools.packages.wheels import ARCHITECTURES, ROOT
from verdictd_py import __version__
from verdictd_py.secretfiles import SecretFileUnusable

VERIFY: Final = Path(__file__).with_name("verify.sh")


def main(argv: Sequence[str]) -> int:
    """Write the archive, and the script that verifies it next to it."""
    options = _parser().parse_args(argv)
    os.environ.setdefault("SOURCE_DATE_EPOCH", _git("log", "-1", "--format=%ct"))
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    chosen = [
        name
        for name in parts.PARTS
        if name in (options.only or parts.PARTS) and name not in (options.without or ())
    ]
    name = f"verdictd-py-{__version__}"
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="verdictd-py-bundle-", dir=options.output) as work:
        place = Path(work) / name
        place.mkdir()
        source = parts.Source(options.arch, options.image, options.openpgp, revision())
        try:
            for part in chosen:
                (place / part).mkdir()
                parts.PARTS[part](place / part, source)
            _describe(place, chosen, source)
            seal(place, options.key)
        except (parts.Missing, SecretFileUnusable) as error:
            print(f"bundle: {error}", file=sys.stderr)
            return 1
        archive = options.output / f"{name}-bundle.tar"
        write_tar(place, archive, epoch)
    script = options.output / VERIFY.name
    script.write_bytes(VERIFY.read_bytes())
    print(f"{archive.name}: {archive.stat().st_size / 1e6:.1f} MB with {', '.join(chosen)}")
    if options.key is None:
        print("the bundle is NOT SIGNED: --key FILE signs it (Ed25519 or ECDSA, PEM)")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./dev bundle",
        description="Write one archive for a site without a network: image, chart, packages, "
        "wheels, bills of materials, checksums, and a script that verifies them. Two runs on one "
        "commit write the same bytes.",
    )
    names = ",".join(parts.PARTS)
    parser.add_argument("--only", type=_part_names, metavar="PARTS", help=f"of {names}")
    parser.add_argument("--without", type=_part_names, metavar="PARTS", help="parts to leave out")
    parser.add_argument(
        "--arch",
        type=_architectures,
        metavar="NAME[,NAME]",
        default=tuple(ARCHITECTURES),
        help="of packages and wheels (amd64,arm64)",
    )
    parser.add_argument(
        "--image",
        type=Path,
        metavar="DIR",
        default=ROOT / "dist" / "image",
        help="output of './dev image' (dist/image)",
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key that signs (PEM)")
    parser.add_argument("--openpgp", type=Path, metavar="KEY", help="signs deb and rpm packages")
    parser.add_argument("--output", type=Path, metavar="DIR", default=ROOT / "dist")
    return parser


def _part_names(text: str) -> tuple[str, ...]:
    return _names(text, tuple(parts.PARTS), "part")


def _architectures(text: str) -> tuple[str, ...]:
    return _names(text, tuple(ARCHITECTURES), "architecture")


def _names(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"no {what}: {name!r}; known: {', '.join(known)}")
    return names


def _describe(place: Path, chosen: list[str], source: parts.Source) -> None:
    """Write the file that says what the bundle is. Its first line is what the script prints."""
    lines = (
        f"verdictd-py {__version__} commit {source.revision}",
        f"parts: {', '.join(chosen)}",
        f"architectures: {', '.join(source.architectures)}",
    )
    (place / "BUNDLE").write_text("".join(f"{line}\n" for line in lines))
    script = place / VERIFY.name
    script.write_bytes(VERIFY.read_bytes())
    script.chmod(0o755)


def revision() -> str:
    """Return the commit of the checkout; with `-changed` if files differ from it."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD") + ("-changed" if changed else "")


def _git(*words: str) -> str:
    command = ("git", "-C", str(ROOT), *words)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
