"""The parts of a bundle. Each function writes one directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.archives import repack
from tools.packages.__main__ import build
from tools.packages.wheels import ROOT, collect, requirements
from verdictd_py import __version__

CHART: Final = ROOT / "verdictd_py" / "deploy" / "helm" / "verdictd-py"
CACHE: Final = ROOT / ".cache" / "packages"


class Missing(Exception):
    """A part cannot be made; the text has the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class Source:
    """What the parts are made from.

    Attributes:
        architectures: of packages and wheels, as Debian names them.
        image: directory that `./dev image` wrote.
        openpgp: file with the secret key that signs packages; None for no signature.
        revision: commit of the checkout; with `-changed` if files differ from it.
    """

    architectures: tuple[str, ...]
    image: Path
    openpgp: Path | None
    revision: str


def _image(place: Path, source: Source) -> None:
    """Copy what `./dev image` wrote, if it is of this commit and unaltered."""
    statement = source.image / "provenance.intoto.json"
    remedy = "run './dev image', or leave the part out with --without image"
    if not statement.is_file():
        raise Missing(f"{source.image} has no image; {remedy}")
    if f"git+file:verdictd-py@{source.revision}" not in _materials(statement):
        raise Missing(f"the image in {source.image} is of another commit; {remedy}")
    for line in (source.image / "SHA256SUMS").read_text().splitlines():
        name = line.partition("  ")[2]
        shutil.copyfile(source.image / name, place / name)
    shutil.copyfile(source.image / "SHA256SUMS", place / "SHA256SUMS")
    done = subprocess.run(
        ("sha256sum", "--quiet", "--strict", "--check", "SHA256SUMS"),
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Missing(f"the image in {source.image} is damaged; {remedy}")


def _materials(statement: Path) -> list[str]:
    definition = json.loads(statement.read_text())["predicate"]["buildDefinition"]
    return [material["uri"] for material in definition["resolvedDependencies"]]


def _chart(place: Path, _: Source) -> None:
    """Pack the Helm chart with helm, which checks it; then without the times of this run."""
    local = ROOT / ".cache" / "bin"
    helm = shutil.which("helm", path=f"{local}{os.pathsep}{os.environ['PATH']}")
    if helm is None:
        raise Missing(
            "helm is missing: GOBIN=$PWD/.cache/bin go install helm.sh/helm/v3/cmd/helm "
            "(version in tools/go-tools.txt), or leave the part out with --without chart"
        )
    command = (helm, "package", str(CHART), "--destination", str(place))
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    epoch = int(os.environ["SOURCE_DATE_EPOCH"])
    repack(place / f"verdictd-py-{__version__}.tgz", epoch, compressed=True)


def _packages(place: Path, source: Source) -> None:
    for arch in source.architectures:
        build(arch, place, source.openpgp)


def _wheels(place: Path, source: Source) -> None:
    """Collect the wheels of every architecture; `pip install` checks them by requirements.txt."""
    with tempfile.TemporaryDirectory() as built:
        for arch in source.architectures:
            for wheel in collect(arch, Path(built), CACHE, __version__):
                shutil.copyfile(wheel, place / wheel.name)
    (place / "requirements.txt").write_text(requirements(sorted(place.glob("*.whl"))))


def _sbom(place: Path, _: Source) -> None:
    shutil.copyfile(ROOT / "sbom.cdx.json", place / "verdictd-py.cdx.json")


PARTS: Final[Mapping[str, Callable[[Path, Source], None]]] = {
    "image": _image,
    "chart": _chart,
    "packages": _packages,
    "wheels": _wheels,
    "sbom": _sbom,
}
"""In the order of the messages; the name of a part is that of its directory."""
