"""The command line: `./dev image [--output DIR] [--arch amd64,arm64] [--base IMAGE] [--twice]`.

Exit status 1 if a step fails or two builds differ.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.archives import repack, sha256
from tools.image import statements
from tools.image.build import NAME, ROOT, Failed, Tools, require
from verdictd_py import __version__

DEBIAN: Final = "debian"
LOCKS: Final = ("Containerfile", "requirements.lock", "requirements-build.lock")


def main(argv: Sequence[str]) -> int:
    """Build the image of each architecture, one manifest list, and their documents."""
    parser = argparse.ArgumentParser(prog="./dev image", description=main.__doc__)
    parser.add_argument("--output", metavar="DIR", type=Path, default=ROOT / "dist" / "image")
    parser.add_argument("--arch", metavar="NAME[,NAME]", default="amd64", help="(%(default)s)")
    parser.add_argument(
        "--base",
        metavar="IMAGE",
        help=f"{DEBIAN}: built with mmdebstrap; or an image as buildah pulls it, such as "
        "oci-archive:base-{arch}.tar (that of the Containerfile, by digest)",
    )
    parser.add_argument("--twice", action="store_true", help="build again, and compare the digests")
    options = parser.parse_args(argv)
    where = "/var/tmp"  # noqa: S108  # a new directory in it is used; /tmp may be memory
    with tempfile.TemporaryDirectory(prefix="verdictd-py-image-", dir=where) as work:
        try:
            require("buildah")
            _build(options, Tools(Path(work), _epoch()))
        except Failed as error:
            print(f"image: {error}", file=sys.stderr)
            return 1
    return 0


def _build(options: argparse.Namespace, tools: Tools) -> None:
    options.output.mkdir(parents=True, exist_ok=True)
    revision = _revision()
    labels = [f"VERSION={__version__}", f"REVISION={revision}"]
    subjects: dict[str, str] = {}
    bases: dict[str, dict[str, str]] = {}
    for arch in options.arch.split(","):
        base = _chosen_base(tools, options.base, arch)
        tag = f"localhost/{NAME}:{arch}"
        tools.image(tag, arch, base, labels)
        digest = tools.digest(tag)
        archive = options.output / f"{NAME}-{__version__}-{arch}.tar.gz"
        tools.archive(tag, archive, f"localhost/{NAME}:{__version__}")
        print(f"{archive.name}  {digest}  {archive.stat().st_size / 2**20:.0f} MiB", flush=True)
        if options.twice:
            tools.image(f"{tag}-again", arch, base, labels)
            _compare(digest, tools.digest(f"{tag}-again"))
        subjects[f"{NAME}:{__version__}-{arch}"] = digest
        bases |= _base(tools, base, options.base)
        _write_bill(options.output, tools, tag, arch, digest)
        tools.run("buildah", "manifest", "add", _list(tools), tag)
    both = options.output / f"{NAME}-{__version__}.oci.tar"
    tools.run("buildah", "manifest", "push", "--all", _list(tools), f"oci-archive:{both}")
    repack(both, tools.epoch)  # buildah writes the times of this run
    commit = revision.removesuffix("-changed")
    statement = statements.provenance(
        subjects,
        parameters={"arch": options.arch, "base": options.base or "", "epoch": tools.epoch},
        materials={
            f"git+file:verdictd-py@{revision}": {"gitCommit": commit},
            **bases,
            **{f"file:{name}": {"sha256": sha256(ROOT / name)} for name in LOCKS},
        },
        builder=tools.run("buildah", "--version"),
    )
    (options.output / "provenance.intoto.json").write_text(statement)
    _write_sums(options.output)


def _chosen_base(tools: Tools, chosen: str | None, arch: str) -> str | None:
    """Return the base in the storage of this run; None for that of the Containerfile."""
    if chosen is None:
        return None
    return tools.debian(arch) if chosen == DEBIAN else tools.pulled(chosen, arch)


def _base(tools: Tools, base: str | None, chosen: str | None) -> dict[str, dict[str, str]]:
    """Return the digest of a base by its name; None stands for the base of the Containerfile."""
    if base is not None:
        digest = tools.run("buildah", "images", "--format={{.Digest}}", base)
        base = base if chosen == DEBIAN else chosen
    else:
        found = re.search(r"^ARG BASE=(.+)@(sha256:.+)$", (ROOT / LOCKS[0]).read_text(), re.M)
        if found is None:
            raise Failed("the Containerfile names no base by its digest")
        base, digest = found.groups()
    return {f"oci:{base}": {"sha256": digest.removeprefix("sha256:")}}


def _list(tools: Tools) -> str:
    """Return the name of the manifest list, which exists afterwards."""
    name = f"localhost/{NAME}:list"
    if not (tools.work / "list").exists():
        tools.run("buildah", "manifest", "create", name)
        (tools.work / "list").touch()
    return name


def _compare(first: str, second: str) -> None:
    if first != second:
        raise Failed(f"two builds differ: {first} and {second}")
    print("the second build has the same digest", flush=True)


def _write_bill(output: Path, tools: Tools, tag: str, arch: str, digest: str) -> None:
    release = tools.read(tag, "etc/debian_version").partition(".")[0]
    status = tools.read(tag, "var/lib/dpkg/status")
    system = list(statements.packages(status, distribution=f"debian-{release}"))
    python = json.loads((ROOT / "sbom.cdx.json").read_text())
    text = statements.bill(f"{NAME}:{__version__}-{arch}", digest, python, system)
    (output / f"{NAME}-{__version__}-{arch}.cdx.json").write_text(text)


def _write_sums(output: Path) -> None:
    files = sorted(file for file in output.iterdir() if file.name != "SHA256SUMS")
    lines = [f"{sha256(file)}  {file.name}\n" for file in files]
    (output / "SHA256SUMS").write_text("".join(lines))


def _epoch() -> int:
    """Return the time of the commit, or SOURCE_DATE_EPOCH."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or _git("log", "-1", "--format=%ct"))


def _revision() -> str:
    """Return the commit; with `-changed` if files differ from it."""
    changed = _git("status", "--porcelain", "--untracked-files=no")
    return _git("rev-parse", "HEAD") + ("-changed" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
